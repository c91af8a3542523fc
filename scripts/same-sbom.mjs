/**
 * Reads a bill of materials (CycloneDX) and writes it with the time of SOURCE_DATE_EPOCH (seconds), and a serial number made from its content:
 * npm takes the time of now and a random number, and two packs of one commit would differ.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

const { serialNumber, ...bom } = JSON.parse(readFileSync(0, 'utf8'));
if (typeof serialNumber !== 'string' || typeof bom.metadata?.timestamp !== 'string')
  throw new Error('npm sbom has written neither a serial number nor a time: is this CycloneDX?');
bom.metadata.timestamp = new Date(Number(process.env.SOURCE_DATE_EPOCH) * 1_000).toISOString();
const hex = createHash('sha256').update(JSON.stringify(bom)).digest('hex');
// RFC 9562, 5.8: the content of a UUID of version 8 is defined by the application.
const uuid = `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
process.stdout.write(`${JSON.stringify({ ...bom, serialNumber: `urn:uuid:${uuid}` }, undefined, 2)}\n`);
