import { fc } from '@fast-check/vitest';

/** One change of a saved state: which of its leaves (counted in order), what it becomes, and whether its row of a list is lost or doubled. */
interface Forgery {
  readonly leaf: number;
  /** null: one more, or less, than it was. */
  readonly number: number | null;
  readonly text: bigint;
  readonly row: 'stays' | 'is lost' | 'is there twice';
}

const number = fc.oneof(
  fc.constant(null),
  fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  fc.nat(64),
  fc.nat(0xffff).map((value) => value << 4),
  fc.constantFrom(-1, 0.5, Number.NaN, 2 ** 31 - 1, -(2 ** 31), 2 ** 31, 2 ** 32 - 1, 2 ** 40, 2 ** 52, 2 ** 53 - 1, 1 - 2 ** 53, 1e300),
);

/** Changes that leave each number a number, each text one of digits, each list one of such rows; one of them as often as many. */
export const forgeries: fc.Arbitrary<readonly Forgery[]> = fc.oneof(
  ...[1, 24].map((maxLength) =>
    fc.array(
      fc.record({
        leaf: fc.nat(),
        number,
        text: fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.constantFrom(0n, 1n, 2n ** 64n - 1n)),
        row: fc.constantFrom('stays', 'stays', 'is lost', 'is there twice'),
      }),
      { minLength: 1, maxLength },
    ),
  ),
);

/** A copy of a saved state with numbers that nobody saved, within their kinds. */
export function forged(state: unknown, changes: readonly Forgery[]): unknown {
  const copy = structuredClone(state);
  for (const { leaf, number: value, text, row } of changes) {
    const places = placesOf(copy);
    if (places.length === 0) break;
    const [owner, key] = places[leaf % places.length];
    const before = owner[key];
    if (typeof before === 'number') owner[key] = value ?? before + (leaf % 2 === 0 ? 1 : -1);
    else if (typeof before === 'boolean') owner[key] = !before;
    else if (typeof before === 'string' && /^0x[0-9a-f]+$/.test(before)) owner[key] = `0x${text.toString(16)}`;
    else if (typeof before === 'string' && /^\d+$/.test(before)) owner[key] = `${text}`;
    if (!Array.isArray(owner) || row === 'stays') continue;
    const at = Number(key);
    owner.splice(at, 1, ...(row === 'is lost' ? [] : [owner[at], structuredClone(owner[at])]));
  }
  return copy;
}

/** Whatever a state holds: leaves, and the rows of lists. */
function placesOf(value: unknown): [Record<string, unknown>, string][] {
  if (typeof value !== 'object' || value === null) return [];
  const owner = value as Record<string, unknown>;
  return Object.keys(owner).flatMap((key): [Record<string, unknown>, string][] => {
    const isLeaf = typeof owner[key] !== 'object' || owner[key] === null;
    return [...(isLeaf || Array.isArray(owner) ? [[owner, key] as [Record<string, unknown>, string]] : []), ...placesOf(owner[key])];
  });
}
