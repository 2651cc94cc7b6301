import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { NO_PASID, type TargetObserver } from '../../../src/target/target.ts';
import type { VirtioIommu } from '../../../src/target/virtio-iommu/index.ts';
import { F_MAP_UNMAP, F_MMIO, REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { MAP_F_MMIO, S_INVAL, S_NOENT, S_NOMEM, S_OK } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { EP, OTHER, start } from './fixture.ts';
import { attach, detach, map, probe, unmap } from './requests.ts';

/* What a host's refusal leaves: exactly what was there before. */

const SPLIT = { packed: false, eventIdx: false };
const ENOMEM = -12;

/** A host that refuses by rule, and notes what each endpoint was told to reach. */
class Host implements TargetObserver {
  readonly told: [endpoint: number, space: string | null][] = [];
  refuses: (endpoint: number, space: string | null) => boolean = () => false;
  /** Flushes that still succeed. */
  flushes = Number.POSITIVE_INFINITY;

  attach(endpoint: number, space: { readonly name: string } | null): number {
    const name = space?.name ?? null;
    if (this.refuses(endpoint, name)) return ENOMEM;
    this.told.push([endpoint, name]);
    return 0;
  }

  changed(): void {}

  flush(): number {
    return this.flushes-- === 0 ? ENOMEM : 0;
  }
}

function reaches(iommu: VirtioIommu, endpoint: number, page: number, access = READ): number | null {
  const lg2 = iommu.translate(endpoint, NO_PASID, 0, page << 12, access);
  return lg2 < 0 ? null : iommu.translated[0] >>> 12;
}

describe('a kick that the host refuses', () => {
  test('PROBE in it is answered once and keeps its answer; the requests around it are done one by one', () => {
    const { iommu, requests } = start(SPLIT, 32);
    const host = new Host();
    iommu.attach(1, EP);
    iommu.observe(host);
    host.flushes = 0;
    const [known, unknown] = [probe(OTHER), probe(99)];
    for (const buffer of [map(1, 0x1000n, 0x1fffn, 0x5000n), known, unknown, map(1, 0x3000n, 0x3fffn, 0x6000n)]) requests.add(buffer);
    iommu.notify(REQUEST_QUEUE);
    const answers = requests.collect().map(({ written, bytes }) => ({ written, status: bytes[written - 4], first: bytes[0] }));
    expect(answers.map(({ status }) => status)).toEqual([S_OK, S_OK, S_NOENT, S_OK]);
    // 5.13.6.8: a property of type RESV_MEM (1), then the tail behind probe_size bytes.
    expect(answers[1]).toMatchObject({ written: 512 + 4, first: 1 });
    expect([1, 3].map((page) => reaches(iommu, EP, page))).toEqual([5, 6]);
    expect(iommu.counts.mappings).toBe(2);
  });

  test.each([
    ['the first', 1, [S_NOMEM, S_OK, S_OK]],
    ['the second', 2, [S_OK, S_NOMEM, S_OK]],
  ])('%s request alone is refused: it alone has not happened, in the tables and in what the IOTLB remembers', (_, nth, statuses) => {
    const { iommu, requests } = start(SPLIT, 32);
    iommu.attach(1, EP);
    iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, 3);
    iommu.map(1, 0x2000n, 0x2fffn, 0x6000n, 3);
    expect([1, 2].map((page) => reaches(iommu, EP, page))).toEqual([5, 6]);
    let flush = 0;
    // All together; taken back; then one by one, the refused one being taken back as well.
    iommu.observe({ attach: () => 0, changed: () => undefined, flush: () => (++flush === 1 || flush === 2 + nth ? ENOMEM : 0) });
    for (const buffer of [unmap(1, 0x1000n, 0x1fffn), unmap(1, 0x2000n, 0x2fffn), map(1, 0x8000n, 0x8fffn, 0x7000n)]) requests.add(buffer);
    iommu.notify(REQUEST_QUEUE);
    expect(requests.collect().map(({ bytes }) => bytes[0])).toEqual(statuses);
    expect([1, 2, 8].map((page) => reaches(iommu, EP, page))).toEqual([nth === 1 ? 5 : null, nth === 2 ? 6 : null, 7]);
    expect(iommu.counts.mappings).toBe(2);
  });

  test('an ATTACH and a DETACH before them are done, and not once more: the second DETACH would be none', () => {
    const { iommu, requests } = start(SPLIT, 32);
    const host = new Host();
    iommu.attach(2, OTHER);
    iommu.observe(host);
    host.flushes = 0;
    const last = [map(1, 0x1000n, 0x1fffn, 0x5000n), map(1, 0x3000n, 0x3fffn, 0x6000n)];
    for (const buffer of [attach(1, EP), detach(2, OTHER), ...last]) requests.add(buffer);
    iommu.notify(REQUEST_QUEUE);
    expect(requests.collect().map(({ bytes }) => bytes[0])).toEqual([S_OK, S_OK, S_OK, S_OK]);
    expect(host.told).toEqual([
      [EP, 'domain 1'],
      [OTHER, null],
    ]);
  });

  test('what the IOTLB came to know of it meanwhile is forgotten', () => {
    const { iommu, requests } = start(SPLIT, 32);
    iommu.attach(1, EP);
    iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, 3);
    const seen: (number | null)[] = [];
    iommu.observe({
      attach: () => 0,
      changed: () => undefined,
      flush: () => {
        seen.push(reaches(iommu, EP, 1));
        return seen.length === 2 ? 0 : ENOMEM;
      },
    });
    requests.add(unmap(1, 0x1000n, 0x1fffn));
    requests.add(map(1, 0x1000n, 0x1fffn, 0x9000n));
    iommu.notify(REQUEST_QUEUE);
    // Together; taken back; then the UNMAP alone, which is refused, and what it took away stands in the way of the MAP.
    expect(seen.slice(0, 3)).toEqual([9, 5, null]);
    expect(requests.collect().map(({ bytes }) => bytes[0])).toEqual([S_NOMEM, S_INVAL]);
    expect(reaches(iommu, EP, 1)).toBe(5);
  });
});

describe('a load or a reset that the host refuses', () => {
  /** EP in domain 1, OTHER in domain 2, each with a page of its own. */
  function busy() {
    const { iommu } = start(SPLIT, 8);
    iommu.attach(1, EP);
    iommu.attach(2, OTHER);
    iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, 3);
    iommu.map(2, 0x1000n, 0x1fffn, 0x6000n, 1);
    const host = new Host();
    iommu.observe(host);
    return { iommu, host };
  }

  /** What is loaded: both endpoints in domain 7. */
  function elsewhere(): unknown {
    const { iommu } = start(SPLIT, 8);
    iommu.attach(7, EP);
    iommu.attach(7, OTHER);
    iommu.map(7, 0x9000n, 0x9fffn, 0x9000n, 3);
    return iommu.save();
  }

  const picture = (iommu: VirtioIommu) =>
    [EP, OTHER].map((endpoint) => [1, 9].map((page) => [reaches(iommu, endpoint, page), reaches(iommu, endpoint, page, WRITE)]));

  test.each([
    ['load', (iommu: VirtioIommu) => iommu.load(elsewhere()), 'domain 7'],
    ['reset', (iommu: VirtioIommu) => iommu.reset(), null],
  ])('%s: endpoints that had moved go back, in that order, and all is as it was', (_, act, next) => {
    const { iommu, host } = busy();
    // Looking records faults, so it comes first here and last below.
    const reached = picture(iommu);
    const before = iommu.save();
    host.refuses = (endpoint, space) => endpoint === OTHER && space === next;
    expect(() => act(iommu)).toThrow(/host does not follow/);
    expect(host.told).toEqual([
      [EP, next],
      [EP, 'domain 1'],
    ]);
    expect(iommu.save()).toEqual(before);
    expect(picture(iommu)).toEqual(reached);
    // What stands is no copy: it can be changed, and counts.
    expect(iommu.map(1, 0x9000n, 0x9fffn, 0x9000n, 3)).toBe(S_OK);
    expect(reaches(iommu, EP, 9)).toBe(9);
    expect(iommu.counts).toMatchObject({ domains: 2, mappings: 3 });
  });

  test('load: one that cannot go back either is blocked', () => {
    const { iommu, host } = busy();
    host.refuses = (endpoint, space) => (endpoint === OTHER ? space === 'domain 7' : space === 'domain 1');
    expect(() => iommu.load(elsewhere())).toThrow(/host does not follow/);
    expect(host.told).toEqual([
      [EP, 'domain 7'],
      [EP, null],
    ]);
  });

  test('load: the features in force stay, and what they allow; those of a load that is done come with it', () => {
    const { iommu, host } = busy();
    const less = start(SPLIT, 8);
    less.iommu.negotiate(less.iommu.device.offeredFeatures & ~F_MMIO);
    less.iommu.attach(7, EP);
    const state = less.iommu.save();
    host.refuses = (_endpoint, space) => space === 'domain 7';
    expect(() => iommu.load(state)).toThrow(/host does not follow/);
    expect(iommu.map(1, 0x9000n, 0x9fffn, 0x9000n, 3 | MAP_F_MMIO)).toBe(S_OK);
    host.refuses = () => false;
    iommu.load(state);
    expect(iommu.map(7, 0x9000n, 0x9fffn, 0x9000n, 3 | MAP_F_MMIO)).toBe(S_INVAL);
    expect(iommu.device.driverFeatures & F_MAP_UNMAP).toBe(F_MAP_UNMAP);
    expect(iommu.map(7, 0x9000n, 0x9fffn, 0x9000n, 3)).toBe(S_OK);
  });
});
