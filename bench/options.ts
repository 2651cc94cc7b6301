import { parseArgs } from 'node:util';
import { SCALE_PARTS, SCALE_TARGETS } from './scale/parts.ts';

export interface Options {
  /** Rows asked for, in the registry's order. */
  readonly names: readonly string[];
  readonly json: string | null;
  readonly html: string | null;
  /** One short sample instead of medians: shows that everything runs, measures nothing. */
  readonly quick: boolean;
  /** Only say which rows there are. */
  readonly list: boolean;
  /** Only say how to ask. */
  readonly help: boolean;
}

export const HELP = `Usage: npm run bench -- [options] [rows...]
       npm run bench -- [options] scale [parts...]

Measures the hot paths beside the same work in C. It ends in a table of goals
that are met, missed, and undecided: where the spread is wider than the margin.

Arguments:
  rows           rows to measure (default: all)
  scale          measure what costs as the machine grows instead, all of it or
                 parts: ${SCALE_PARTS.join(', ')};
                 of spaces also single targets: ${SCALE_TARGETS.slice(0, 3).join(', ')},
                 ${SCALE_TARGETS.slice(3).join(', ')}

Options:
  --list         only say which rows there are
  --quick        one short sample of each, which shows that it runs and measures
                 nothing
  --json <file>  also write the figures
  --html <file>  also write a page
  -h, --help     print this`;

/** @throws RangeError for a row that there is not, TypeError for an option that there is not. */
export function parseOptions(argv: readonly string[], known: readonly string[]): Options {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      html: { type: 'string' },
      quick: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const unknown = positionals.filter((name) => !known.includes(name));
  if (unknown.length > 0) throw new RangeError(`no row is named ${unknown.join(', ')}; there are: ${known.join(', ')}`);
  return {
    names: positionals.length === 0 ? known : known.filter((name) => positionals.includes(name)),
    json: values.json ?? null,
    html: values.html ?? null,
    quick: values.quick,
    list: values.list,
    help: values.help,
  };
}
