import { overSize, overSpaces } from '../../bench/scale/sweeps.ts';

/*
 * What scale.test.ts judges, in a process of its own, as `npm run bench -- scale` has it: points are taken between full collections, each of which
 * walks all that the files of the suite keep.
 */
const points = [
  overSpaces('spapr', 1, 10),
  overSpaces('spapr', 16, 10),
  overSize('mappings', 10_000 * 4096, 12, true),
  overSize('guest size', 2 ** 24, 12, false),
  overSize('guest size', 2 ** 24, 21, false),
];
process.stdout.write(JSON.stringify(points));
