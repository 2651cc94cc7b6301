import { WRITE } from '../../../memory/access.ts';
import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import type { SimKernel } from '../kernel.ts';
import type { PagingDomain } from '../paging-domain.ts';
import { SpanList } from '../spans.ts';
import type { DomainFormat } from '../translation.ts';
import { type AccessUser, type Area, empty, fill } from './area.ts';
import { AreaAccesses } from './area-accesses.ts';
import { IOVA_MAX, IovaRanges } from './iova-ranges.ts';
import type { Pages, Slice } from './pages.ts';

const PAGE = BigInt(PAGE_BYTES);
/** What an IOAS maps, and the domains that it fills (struct io_pagetable). */
export class IoPageTable {
  readonly #kernel: SimKernel;
  readonly #areas = new SpanList<bigint, Area>();
  readonly #domains: PagingDomain[] = [];
  readonly ranges = new IovaRanges(this.#areas);
  readonly accesses = new AreaAccesses(this.#areas);
  hugePages = true;
  alignment = 1n;

  constructor(kernel: SimKernel) {
    this.#kernel = kernel;
  }

  get size(): number {
    return this.#areas.size;
  }

  /** Maps slices one behind the other at `iova`, or where there is room (undefined). Returns the IOVA, or a negative errno. */
  map(slices: readonly Slice[], iova: bigint | undefined, permission: number): bigint {
    const bytes = slices.reduce((sum, slice) => sum + slice.bytes, 0n);
    if (bytes === 0n || bytes % this.alignment !== 0n) return BigInt(-errno.EINVAL);
    const first = iova ?? this.ranges.place(slices[0].pages.start + slices[0].offset, bytes, this.alignment);
    if (first < 0n) return first;
    const refused = this.#check(first, bytes, slices, permission);
    if (refused < 0) return BigInt(refused);
    const areas: Area[] = [];
    let at = first;
    for (const { pages, offset, bytes: size } of slices) {
      areas.push({
        first: at,
        last: at + size - 1n,
        pages,
        offset,
        permission,
        frames: null,
        physical: 0,
        accesses: 0,
        locks: 0,
        leaving: false,
      });
      at += size;
    }
    if (this.#domains.length > 0) {
      const failed = this.#fillAll(areas);
      if (failed < 0) return BigInt(failed);
    }
    for (const area of areas) this.#insert(area);
    return first;
  }

  #insert(area: Area): void {
    this.#areas.insert(area);
    area.pages.enter();
  }

  /** iopt_check_iova and iopt_insert_area. */
  #check(first: bigint, bytes: bigint, slices: readonly Slice[], permission: number): number {
    if (first % this.alignment !== 0n) return -errno.EINVAL;
    const last = first + bytes - 1n;
    if (last > IOVA_MAX) return -errno.EOVERFLOW;
    if (this.ranges.isReserved(first, last)) return -errno.EINVAL;
    if (this.#areas.firstIn(first, last) !== undefined) return -errno.EEXIST;
    for (const { pages, offset } of slices) {
      if ((permission & WRITE) !== 0 && !pages.writable) return -errno.EPERM;
      if (((pages.start + offset) % PAGE) % this.alignment !== 0n) return -errno.EINVAL;
    }
    return 0;
  }

  #fillAll(areas: readonly Area[]): number {
    for (const [index, area] of areas.entries()) {
      const failed = this.#pin(area);
      if (failed < 0) {
        for (const done of areas.slice(0, index)) this.#unpin(done);
        return failed;
      }
    }
    for (const area of areas) for (const domain of this.#domains) fill(domain, area, !this.hugePages);
    return 0;
  }

  /** Finds and pins the frames of an area: 0, -EFAULT or -ENOMEM. */
  #pin(area: Area): number {
    const { pages } = area;
    const found = pages.locate(area.offset, area.last - area.first + 1n);
    if (typeof found === 'number') return found;
    const refused = pages.pin(area.offset, area.last - area.first + 1n, found);
    if (refused < 0) return refused;
    this.#kernel.physical.hold(found.frames);
    area.frames = found.frames;
    area.physical = found.frames.first + found.offset;
    return 0;
  }

  #unpin(area: Area): void {
    if (area.frames === null) return;
    this.#kernel.physical.drop(area.frames);
    area.frames = null;
    area.pages.unpin(area.offset, area.last - area.first + 1n);
  }

  /**
   * Takes away every area within [first, last], lowest first, up to one that sticks out (-ENOENT): what lies below it is gone
   * then. Returns the bytes unmapped and the errno.
   */
  unmap(first: bigint, last: bigint): { readonly bytes: bigint; readonly error: number } {
    let bytes = 0n;
    for (let area = this.#areas.firstIn(first, last); area !== undefined; area = this.#areas.firstIn(first, last)) {
      if (area.locks > 0) return { bytes, error: -errno.EBUSY };
      if (area.first < first || area.last > last) return { bytes, error: -errno.ENOENT };
      if (!this.accesses.release(area)) return { bytes, error: -errno.EDEADLK };
      this.#areas.remove(area);
      for (const domain of this.#domains) empty(domain, area);
      this.#unpin(area);
      area.pages.leave();
      bytes += area.last - area.first + 1n;
    }
    return { bytes, error: 0 };
  }

  /** What [first, last] maps, in order, or null when any of it is not mapped. */
  slices(first: bigint, last: bigint): Slice[] | null {
    const slices: Slice[] = [];
    for (let at = first; at <= last; ) {
      const area = this.#areas.at(at);
      if (area === undefined) return null;
      const end = area.last < last ? area.last : last;
      slices.push({ pages: area.pages, offset: area.offset + (at - area.first), bytes: end - at + 1n });
      at = end + 1n;
    }
    return slices;
  }

  /** The last address up to which all of [first, last] is mapped; first - 1 when nothing is. */
  mappedFrom(first: bigint, last: bigint): bigint {
    let at = first;
    for (let area = this.#areas.at(at); area !== undefined && at <= last; area = this.#areas.at(at)) at = area.last + 1n;
    return at > last ? last : at - 1n;
  }

  /** iopt_add_access: 0 or -EADDRINUSE. */
  addAccess(user: AccessUser): number {
    this.accesses.add(user);
    const failed = this.setAlignment();
    if (failed < 0) this.accesses.delete(user);
    return failed;
  }

  removeAccess(user: AccessUser): void {
    this.accesses.delete(user);
    this.setAlignment();
  }

  /** The memory behind it. */
  get pages(): Pages[] {
    return [...this.#areas].map(({ pages }) => pages);
  }

  /** iopt_table_add_domain: narrows what can be mapped to the hardware's aperture, and fills the domain. 0 or a negative errno. */
  addDomain(domain: PagingDomain): number {
    const { aperture, pageSizes } = domain.format;
    const smallest = pageSizes & -pageSizes;
    const alignment = smallest > this.alignment ? smallest : this.alignment;
    if (alignment > PAGE) return -errno.EINVAL;
    if (alignment !== this.alignment && !this.#conforms(alignment)) return -errno.EADDRINUSE;
    let failed = aperture.first > 0n ? this.ranges.reserve({ first: 0n, last: aperture.first - 1n }, domain) : 0;
    if (failed === 0 && aperture.last < IOVA_MAX) failed = this.ranges.reserve({ first: aperture.last + 1n, last: IOVA_MAX }, domain);
    if (failed === 0 && this.#domains.length === 0) failed = this.#pinAll();
    if (failed < 0) {
      this.ranges.unreserve(domain);
      return failed;
    }
    for (const area of this.#areas) fill(domain, area, !this.hugePages);
    this.alignment = alignment;
    this.#domains.push(domain);
    return 0;
  }

  #pinAll(): number {
    const done: Area[] = [];
    for (const area of this.#areas) {
      const failed = this.#pin(area);
      if (failed < 0) {
        for (const pinned of done) this.#unpin(pinned);
        return failed;
      }
      done.push(area);
    }
    return 0;
  }

  removeDomain(domain: PagingDomain): void {
    this.#domains.splice(this.#domains.indexOf(domain), 1);
    this.ranges.unreserve(domain);
    for (const area of this.#areas) empty(domain, area);
    if (this.#domains.length === 0) for (const area of this.#areas) this.#unpin(area);
    this.setAlignment();
  }

  /** What the domains that it fills are. */
  get formats(): DomainFormat[] {
    return this.#domains.map(({ format }) => format);
  }

  /** iopt_cut_iova: what is mapped across these last addresses becomes two mappings each, where pages are not combined. 0 or a negative errno. */
  cut(lasts: readonly bigint[]): number {
    for (const last of lasts) {
      const area = this.#areas.at(last);
      if (area === undefined || last === area.first || last === area.last) continue;
      if (area.leaving) return -errno.EBUSY;
      const start = last + 1n;
      const from = area.pages.start + area.offset + (start - area.first);
      if (start % this.alignment !== 0n || (from % PAGE) % this.alignment !== 0n) return -errno.EINVAL;
      if (area.accesses > 0 || (this.#domains.length > 0 && this.hugePages)) return -errno.EINVAL;
      this.#split(area, start);
    }
    return 0;
  }

  #split(area: Area, start: bigint): void {
    const bytes = start - area.first;
    const low: Area = { ...area, last: start - 1n };
    const high: Area = { ...area, first: start, offset: area.offset + bytes, physical: area.physical + Number(bytes) };
    this.#areas.remove(area);
    for (const domain of this.#domains) empty(domain, area);
    for (const part of [low, high]) {
      this.#insert(part);
      for (const domain of this.#domains) fill(domain, part, !this.hugePages);
    }
    area.pages.leave();
    // Both pin the frames now.
    if (area.frames === null) return;
    const { frames } = area;
    this.#kernel.physical.hold(frames);
    for (const part of [low, high])
      area.pages.pin(part.offset, part.last - part.first + 1n, { frames, offset: part.physical - frames.first });
    area.pages.unpin(area.offset, area.last - area.first + 1n);
  }

  /** Combining pages can be forbidden only while no domain has combined any. 0 or a negative errno. */
  setHugePages(on: boolean): number {
    if (on === this.hugePages) return 0;
    if (!on && this.#domains.length > 0 && this.#areas.size > 0) return -errno.EINVAL;
    const before = this.hugePages;
    this.hugePages = on;
    const failed = this.setAlignment();
    if (failed < 0) this.hugePages = before;
    return failed;
  }

  /** iopt_calculate_iova_alignment: what domains and options ask for now. 0 or -EADDRINUSE. */
  setAlignment(): number {
    let alignment = this.hugePages && !this.accesses.pins ? 1n : PAGE;
    for (const { format } of this.#domains) {
      const smallest = format.pageSizes & -format.pageSizes;
      if (smallest > alignment) alignment = smallest;
    }
    if (alignment > this.alignment && !this.#conforms(alignment)) return -errno.EADDRINUSE;
    this.alignment = alignment;
    return 0;
  }

  #conforms(alignment: bigint): boolean {
    for (const { first, last, pages, offset } of this.#areas) {
      if (first % alignment !== 0n || (last - first + 1n) % alignment !== 0n || ((pages.start + offset) % PAGE) % alignment !== 0n)
        return false;
    }
    return true;
  }

  save(): unknown {
    return {
      areas: [...this.#areas].map(({ first, last, permission, physical, frames }) => ({
        first: first.toString(16),
        last: last.toString(16),
        permission,
        physical: frames && physical,
      })),
      ...this.ranges.save(),
      alignment: Number(this.alignment),
      domains: this.#domains.length,
    };
  }
}
