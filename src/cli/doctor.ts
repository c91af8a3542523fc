import type { Command } from 'commander';
import type { Registry } from './command.js';
import type { DoctorCheck } from './host.js';
import type { Output } from './output.js';

export function doctorCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'doctor',
    summary: 'check whether this host can enforce, with the remedy of each failure',
    examples: ['doctor', 'doctor --json'],
    run: async (session) => {
      const checks = await session.host.runDoctor(await session.config());
      const canEnforce = checks.every((check) => check.ok || check.level === 'warn');
      session.out.show({ canEnforce, checks }, () => print(session.out, checks, canEnforce));
      return canEnforce ? 0 : 1;
    },
  });
}

function print(out: Output, checks: readonly DoctorCheck[], canEnforce: boolean): void {
  out.table(
    ['CHECK', 'RESULT', 'DETAIL', 'REMEDY'],
    checks.map((c) => [
      c.name,
      c.ok ? 'ok' : c.level === 'warn' ? 'warning' : 'FAILED',
      c.detail,
      c.ok ? '-' : (c.remedy ?? '-'),
    ]),
  );
  out.note(canEnforce ? 'this host can enforce' : 'this host CANNOT enforce: see the checks that failed');
}
