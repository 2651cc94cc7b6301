import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import type { ReservedRange } from '../iommu.ts';
import type { Span, SpanList } from '../spans.ts';
import type { Area } from './area.ts';

/** Highest IOVA; as an argument it is refused where the kernel's unsigned long could overflow. */
export const IOVA_MAX = 0xffff_ffff_ffff_ffffn;
const PAGE = BigInt(PAGE_BYTES);
/** Alignment beyond which automatic placement does not go: the size of a huge page. */
const HUGE_PAGE = 0x20_0000n;

interface Reserved extends ReservedRange {
  readonly owner: object;
}

/** Where an IOAS may map: what devices and domains have reserved, and what was promised to the user. */
export class IovaRanges {
  readonly #areas: SpanList<bigint, Area>;
  #reserved: Reserved[] = [];
  #allowed: readonly Span<bigint>[] = [];

  constructor(areas: SpanList<bigint, Area>) {
    this.#areas = areas;
  }

  isReserved(first: bigint, last: bigint): boolean {
    return this.#reserved.some((range) => range.first <= last && range.last >= first);
  }

  /** iopt_reserve_iova: 0, or -EADDRINUSE where something is mapped or was promised (ALLOW_IOVAS). */
  reserve(range: ReservedRange, owner: object): number {
    if (this.#areas.firstIn(range.first, range.last) !== undefined) return -errno.EADDRINUSE;
    if (this.#allowed.some((allowed) => allowed.first <= range.last && allowed.last >= range.first)) return -errno.EADDRINUSE;
    this.#reserved.push({ ...range, owner });
    return 0;
  }

  unreserve(owner: object): void {
    this.#reserved = this.#reserved.filter((range) => range.owner !== owner);
  }

  /** Promises ranges: no device that would narrow them can attach. 0 or -EADDRINUSE. */
  allow(ranges: readonly Span<bigint>[]): number {
    if (ranges.some((range) => this.isReserved(range.first, range.last))) return -errno.EADDRINUSE;
    this.#allowed = ranges;
    return 0;
  }

  /** What is not reserved, ascending. */
  apertures(): Span<bigint>[] {
    return gaps(this.#reserved, 0n, IOVA_MAX);
  }

  /**
   * iopt_alloc_iova: the lowest room, aligned as the memory at `address` is, up to a huge page and to no less than `smallest`; never IOVA 0.
   * Returns it, or a negative errno.
   */
  place(address: bigint, bytes: bigint, smallest: bigint): bigint {
    if (bytes >= IOVA_MAX / 2n) return BigInt(-errno.EOVERFLOW);
    let alignment = roundUpToPower(bytes);
    const lowest = address & -address;
    if (address !== 0n && lowest < alignment) alignment = lowest;
    if (alignment > HUGE_PAGE) alignment = HUGE_PAGE;
    if (alignment < smallest) return BigInt(-errno.EINVAL);
    for (const range of this.#placeable()) {
      for (const gap of gaps([...this.#reserved, ...this.#areas], range.first, range.last)) {
        const at = (((gap.first + alignment - 1n) / alignment) * alignment) | (address % PAGE);
        if (at < gap.last && gap.last - at >= bytes - 1n) return at;
      }
    }
    return BigInt(-errno.ENOSPC);
  }

  /** Where places are looked for, ascending: what was promised, or everywhere, but for the first and the last page. Neighbours are one. */
  #placeable(): Span<bigint>[] {
    const ends = [
      { first: 0n, last: PAGE - 1n },
      { first: IOVA_MAX - PAGE + 1n, last: IOVA_MAX },
    ];
    const elsewhere = this.#allowed.length > 0 ? gaps(this.#allowed, 0n, IOVA_MAX) : [];
    return gaps([...ends, ...elsewhere], 0n, IOVA_MAX);
  }

  save() {
    return { apertures: this.apertures().map(text), allowed: this.#allowed.map(text) };
  }
}

function text({ first, last }: Span<bigint>): readonly [string, string] {
  return [first.toString(16), last.toString(16)];
}

function roundUpToPower(value: bigint): bigint {
  let power = 1n;
  while (power < value) power <<= 1n;
  return power;
}

/** What of [first, last] lies in none of the spans, ascending. */
function gaps(spans: readonly Span<bigint>[], first: bigint, last: bigint): Span<bigint>[] {
  const result: Span<bigint>[] = [];
  let at = first;
  for (const span of [...spans].sort((a, b) => (a.first < b.first ? -1 : 1))) {
    if (span.last < at || span.first > last) continue;
    if (span.first > at) result.push({ first: at, last: span.first - 1n });
    at = span.last + 1n;
  }
  if (at <= last) result.push({ first: at, last });
  return result;
}
