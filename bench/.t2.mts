import { ThreatWorker } from '../src/threats/worker-client.js';
import { WELL_KNOWN } from '../src/threats/well-known.js';
import { DEFAULT_GUARDS } from '../src/threats/guards.js';
import { ThreatIndex } from '../src/threats/matcher.js';
import { readFileSync, readdirSync } from 'node:fs';
await using w = new ThreatWorker();
const feeds=[]; const ix = new ThreatIndex();
for (const d of ['domains','edge','ipv4','ipv6','spamhaus']) for (const f of readdirSync(`../shared/feeds/${d}`)) {
  const t=performance.now();
  const r = await w.load({feed:f, body: readFileSync(`../shared/feeds/${d}/${f}`), parse:{format:'auto',maxSize:1e9,now:Date.now()}, guards:DEFAULT_GUARDS, known: WELL_KNOWN, accept:false});
  const ms=(performance.now()-t).toFixed(1);
  if(!r.outcome.ok) console.log(f,'REFUSED',JSON.stringify(r.outcome.refusal)); else { const c=r.outcome.data.counts; console.log(f,JSON.stringify(c), r.snapshot!.length, ms, JSON.stringify(r.outcome.report.known.map(k=>({...k,samples:k.samples.slice(0,2)}))), r.outcome.report.suffixes.count, r.outcome.report.suffixes.samples.slice(0,5).map(s=>s.text).join());
   feeds.push(r.outcome.data); ix.put(r.outcome.data); }
}
let t=performance.now();
const m = await w.merge({feeds, protect: []});
console.log(performance.now()-t, m.entries, m.v4.addresses, m.v4.members.singles.length, m.v4.members.prefixes.length, m.v6.members.prefixes.length, m.v6.members.singles.length/4, m.subtracted.length, m.subtracted.slice(0,4), ix.bytes);
console.log(ix.address('45.148.10.240'), ix.name('www.zzyha.shop'));
