import { cpus } from 'node:os';

/** What a result was measured on: figures of two machines, or two compilers, are not compared. */
export interface MeasuredOn {
  readonly cpu: string;
  readonly cores: number;
  readonly node: string;
  readonly v8: string;
  /** null: there was none, and no ratios. */
  readonly compiler: string | null;
  /** ISO 8601. */
  readonly date: string;
}

export function machineOf(compiler: string | null, now = new Date()): MeasuredOn {
  const all = cpus();
  const { node, v8 } = process.versions;
  return { cpu: all[0]?.model.trim() ?? 'unknown', cores: all.length, node, v8, compiler, date: now.toISOString() };
}
