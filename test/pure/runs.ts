/**
 * Runs of a property: few by default, each time with a new seed. RUNS multiplies them: `RUNS=20 npm test` for a long run; `npm run mutants` sets it,
 * since one run of a mutant has to find it.
 */
export const runs = (few: number): number => few * Number(process.env.RUNS ?? 1);
