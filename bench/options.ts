import { parseArgs } from 'node:util';

export interface Options {
  /** Rows asked for, in the registry's order. */
  readonly names: readonly string[];
  readonly json: string | null;
  readonly html: string | null;
  /** One short sample instead of medians: shows that everything runs, measures nothing. */
  readonly quick: boolean;
  /** Only say which rows there are. */
  readonly list: boolean;
}

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
  };
}
