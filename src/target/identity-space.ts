import { READ_WRITE } from '../memory/access.ts';
import { PAGE_BYTES, pfnOf } from '../memory/address.ts';
import type { GuestMemory, GuestRegion } from '../memory/guest-memory.ts';
import type { AddressSpace, PfnRange, RunVisitor } from './target.ts';

/** What an endpoint reaches that no IOMMU stands in front of: guest RAM at its own addresses. It changes with guest RAM only. */
export class IdentitySpace implements AddressSpace {
  readonly name = 'identity';
  readonly owner = 'target';
  readonly announced = true;
  readonly attachedBy?: 'guest';
  readonly #memory: Pick<GuestMemory, 'regions'>;
  #regions: GuestMemory['regions'] | null = null;
  #apertures: readonly PfnRange[] = [];

  /** `attachedBy`: see AddressSpace. */
  constructor(memory: Pick<GuestMemory, 'regions'>, attachedBy?: 'guest') {
    this.#memory = memory;
    if (attachedBy !== undefined) this.attachedBy = attachedBy;
  }

  /** What every region begins at and is a multiple of, in the guest and in the host: a host with larger pages can map just that. */
  get granuleLg2(): number {
    return alignmentLg2(this.#memory.regions);
  }

  /** Guest RAM as it is now; regions that touch are one. */
  get apertures(): readonly PfnRange[] {
    const { regions } = this.#memory;
    if (regions !== this.#regions) {
      this.#regions = regions;
      this.#apertures = stretchesOf(regions);
    }
    return this.#apertures;
  }

  /** Looks at each region of RAM once. */
  enumerate(first: number, last: number, visit: RunVisitor): number {
    for (const range of this.apertures) {
      const from = Math.max(first, range.first);
      const to = Math.min(last, range.last);
      if (from <= to && !visit(from, from, to - from + 1, READ_WRITE)) return to + 1;
    }
    return last + 1;
  }
}

function alignmentLg2(regions: readonly GuestRegion[]): number {
  let bits = 1n << 30n;
  for (const { gpa, buffer, offset = 0, bytes = buffer.byteLength - offset, hostAddress = 0n } of regions)
    bits |= gpa | BigInt(bytes) | hostAddress;
  let lg2 = 12;
  while (((bits >> BigInt(lg2)) & 1n) === 0n) lg2++;
  return lg2;
}

function stretchesOf(regions: GuestMemory['regions']): readonly PfnRange[] {
  const ranges: { first: number; last: number }[] = [];
  for (const region of [...regions].sort((a, b) => (a.gpa < b.gpa ? -1 : 1))) {
    const bytes = region.bytes ?? region.buffer.byteLength - (region.offset ?? 0);
    const first = pfnOf(region.gpa);
    const last = first + bytes / PAGE_BYTES - 1;
    const before = ranges.at(-1);
    if (before !== undefined && before.last + 1 === first) before.last = last;
    else ranges.push({ first, last });
  }
  return ranges;
}
