import type { Compiler } from './compiler.ts';
import type { ResultRow, Row, Variant } from './row.ts';
import { type Effort, median, middleOf, type Sample, sampleNode, sampleProgram } from './sample.ts';

/**
 * Measures one variant and the C program beside it, in alternating fresh processes: what else the machine does meets both.
 * @throws Error when the two do not compute the same
 */
export function measure(row: Row, variant: Variant, compiler: Compiler, effort: Effort): ResultRow {
  const ours: Sample[] = [];
  const theirs: Sample[] = [];
  const baseline = compiler.version === null ? null : variant.baseline;
  const program = baseline && compiler.compile(baseline.program);
  for (let round = 0; round < effort.rounds; round++) {
    ours.push(sampleNode(row.name, variant.name, variant.nodeOptions ?? [], effort.milliseconds));
    if (program && baseline) theirs.push(sampleProgram(program, baseline.arguments, effort.milliseconds));
  }
  const checksums = new Set([...ours, ...theirs].map((sample) => sample.checksum));
  if (checksums.size > 1) {
    const list = (samples: Sample[]) => samples.map((sample) => sample.checksum).join(' ');
    throw new Error(`${row.name}, ${variant.name}: JavaScript computed ${list(ours)}, C ${list(theirs)}`);
  }
  const nsPerOp = median(ours.map((sample) => sample.nsPerOp));
  const baselineNsPerOp = theirs.length === 0 ? null : median(theirs.map((sample) => sample.nsPerOp));
  const ratio = baselineNsPerOp === null ? null : nsPerOp / baselineNsPerOp;
  const ratioSpread = ratio === null ? null : middleOf(ours.map((sample, i) => sample.nsPerOp / theirs[i].nsPerOp));
  return {
    name: row.name,
    variant: variant.name,
    nsPerOp,
    spread: spreadOf(ours),
    baseline: variant.baseline === null ? null : row.baseline,
    baselineNsPerOp,
    baselineSpread: theirs.length === 0 ? null : spreadOf(theirs),
    ratio,
    ratioSpread,
    goal: variant.goal,
    met: ratioSpread === null || variant.goal === null ? null : judge(ratioSpread, variant.goal, effort.rounds),
  };
}

/** null: the goal lies within the spread, or there was one pair and no spread is known. */
function judge([least, most]: readonly [number, number], goal: number, pairs: number): boolean | null {
  if (pairs === 1) return null;
  return most <= goal ? true : least > goal ? false : null;
}

function spreadOf(samples: readonly Sample[]): [number, number] {
  const values = samples.map((sample) => sample.nsPerOp);
  return [Math.min(...values), Math.max(...values)];
}
