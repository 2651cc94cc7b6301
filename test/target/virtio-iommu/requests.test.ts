import { describe, expect, test } from 'vitest';
import { EXECUTE, READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { VirtioIommu, type VirtioIommuOptions } from '../../../src/target/virtio-iommu/index.ts';
import { FAULT_R_DOMAIN, FAULT_R_MAPPING, FAULT_R_UNKNOWN } from '../../../src/target/virtio-iommu/spec/fault.ts';
import { F_MAP_UNMAP, F_MMIO } from '../../../src/target/virtio-iommu/spec/features.ts';
import { S_INVAL, S_NOENT, S_NOMEM, S_OK, S_RANGE, S_UNSUPP } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { F_VERSION_1 } from '../../../src/virtqueue/spec.ts';
import { runsOf } from '../hardware.ts';

const RW = 3;
const EP = 8;
const OTHER = 16;

function make(options: Partial<VirtioIommuOptions> = {}): VirtioIommu {
  const iommu = new VirtioIommu({ memory: GuestMemory.ofBytes(0x10_0000), bootBypass: false, ...options });
  iommu.addEndpoint(EP);
  iommu.addEndpoint(OTHER, [{ kind: 'msi', start: 0xfee0_0000n, last: 0xfeef_ffffn }]);
  iommu.negotiate();
  return iommu;
}

/** A device with EP in domain 1. */
function attached(options: Partial<VirtioIommuOptions> = {}): VirtioIommu {
  const iommu = make(options);
  expect(iommu.attach(1, EP)).toBe(S_OK);
  return iommu;
}

function translate(iommu: VirtioIommu, address: bigint, access = READ, endpoint = EP): bigint | number {
  const lg2 = iommu.translate(endpoint, NO_PASID, hiOf(address), loOf(address), access);
  return lg2 < 0 ? lg2 : joinHiLo(iommu.translated[1], iommu.translated[0]);
}

describe('ATTACH and DETACH (5.13.6.3, 5.13.6.4)', () => {
  test('an endpoint that does not exist: NOENT', () => {
    const iommu = make();
    expect(iommu.attach(1, 9)).toBe(S_NOENT);
    expect(iommu.detach(1, 9)).toBe(S_NOENT);
  });

  test('flags that are not known, or not negotiated: INVAL', () => {
    const iommu = make();
    expect(iommu.attach(1, EP, 2)).toBe(S_INVAL);
    expect(iommu.attach(1, EP, 1)).toBe(S_OK);
    iommu.negotiate(F_VERSION_1 | F_MAP_UNMAP);
    expect(iommu.attach(1, EP, 1)).toBe(S_INVAL);
  });

  test('a domain outside the domain range: RANGE', () => {
    const iommu = make({ domainRange: { first: 5, last: 6 } });
    expect([4, 5, 6, 7].map((domain) => iommu.attach(domain, EP))).toEqual([S_RANGE, S_OK, S_OK, S_RANGE]);
  });

  test('the BYPASS flag has to be that of the domain: INVAL, and nothing changes', () => {
    const iommu = attached();
    expect(iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, RW)).toBe(S_OK);
    expect(iommu.attach(2, OTHER, 1)).toBe(S_OK);
    expect(iommu.attach(1, OTHER, 1)).toBe(S_INVAL);
    expect(iommu.attach(2, EP)).toBe(S_INVAL);
    expect(iommu.attach(1, EP, 1)).toBe(S_INVAL);
    expect(translate(iommu, 0x1234n)).toBe(0x5234n);
    expect(translate(iommu, 0x1234n, READ, OTHER)).toBe(0x1234n);
  });

  test('a second ATTACH to the same domain changes nothing: only another domain is left first', () => {
    const iommu = attached();
    expect(iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, RW)).toBe(S_OK);
    expect(iommu.attach(1, EP)).toBe(S_OK);
    expect(translate(iommu, 0x1234n)).toBe(0x5234n);
  });

  test('endpoints of one domain share its mappings; moving to another domain leaves the first', () => {
    const iommu = attached();
    iommu.attach(1, OTHER);
    iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, RW);
    expect(iommu.spaceOf(OTHER)).toBe(iommu.spaceOf(EP));
    expect(translate(iommu, 0x1000n, READ, OTHER)).toBe(0x5000n);
    expect(iommu.attach(2, OTHER)).toBe(S_OK);
    expect(translate(iommu, 0x1000n, READ, OTHER)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    expect(translate(iommu, 0x1000n)).toBe(0x5000n);
    expect(iommu.detach(1, OTHER)).toBe(S_INVAL);
    expect(iommu.detach(2, OTHER)).toBe(S_OK);
    expect(iommu.detach(2, OTHER)).toBe(S_INVAL);
    expect(translate(iommu, 0x1000n, READ, OTHER)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
  });

  test('a domain that all endpoints left is gone with its mappings, its number free for another', () => {
    const iommu = attached();
    iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, RW);
    expect(translate(iommu, 0x1000n)).toBe(0x5000n);
    expect(iommu.detach(1, EP)).toBe(S_OK);
    expect(iommu.counts).toMatchObject({ domains: 0, mappings: 0 });
    expect(iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, RW)).toBe(S_NOENT);
    expect(iommu.attach(1, EP)).toBe(S_OK);
    expect(translate(iommu, 0x1000n)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
  });

  test('a domain that maps what is reserved for an endpoint is not compatible with it: UNSUPP', () => {
    const iommu = attached();
    iommu.map(1, 0xfeef_f000n, 0xfeff_ffffn, 0x5000n, RW);
    expect(iommu.attach(1, OTHER)).toBe(S_UNSUPP);
    expect(iommu.attach(2, OTHER)).toBe(S_OK);
  });
});

describe('confine: what hardware behind an endpoint cannot map', () => {
  const pages = (first: bigint, last: bigint) => ({ kind: 'reserved', start: first << 12n, last: (last << 12n) | 0xfffn }) as const;
  const msi = { kind: 'msi', start: 0x10_0000n, last: 0x10_0fffn } as const;
  const input = { start: 0n, last: 0xfff_ffffn };
  const confined = (probeBytes: number, reachable: [number, number][], declared: Parameters<VirtioIommu['addEndpoint']>[1] = []) => {
    const iommu = new VirtioIommu({ memory: GuestMemory.ofBytes(4096), inputRange: input, probeBytes });
    iommu.addEndpoint(1, declared);
    iommu.negotiate();
    iommu.attach(7, 1);
    const release = iommu.confine(
      1,
      reachable.map(([first, last]) => ({ first, last })),
    );
    return { iommu, release };
  };

  test('is reserved beside what is declared, which stays what it is', () => {
    const { iommu, release } = confined(
      512,
      [
        [0x10, 0xfff],
        [0x2000, 0xfff0],
      ],
      [msi, pages(0x20n, 0x2fn)],
    );
    expect(iommu.probe(1)).toEqual([pages(0n, 0xfn), pages(0x20n, 0x2fn), msi, pages(0x1000n, 0x1fffn), pages(0xfff1n, 0xffffn)]);
    expect(iommu.map(7, 0x1000_000n, 0x1000_fffn, 0n, RW)).toBe(S_INVAL);
    expect(iommu.map(7, 0x2000_000n, 0x2000_fffn, 0n, RW)).toBe(S_OK);
    release();
    expect(iommu.probe(1)).toEqual([msi, pages(0x20n, 0x2fn)]);
    expect(iommu.map(7, 0x1000_000n, 0x1000_fffn, 0n, RW)).toBe(S_OK);
  });

  test('where a PROBE answer has no room, the nearest become one, but never with the doorbell', () => {
    const reachable: [number, number][] = [
      [0x10, 0x1f],
      [0x22, 0xff],
      [0x101, 0x1ff],
      [0x210, 0xffff],
    ];
    expect(confined(3 * 24, reachable, [msi]).iommu.probe(1)).toEqual([pages(0n, 0x21n), msi, pages(0x200n, 0x20fn)]);
    expect(() => confined(2 * 24, reachable, [msi])).toThrow('3 reserved regions do not fit a probe of 48 bytes');
    expect(confined(24, reachable).iommu.probe(1)).toEqual([pages(0n, 0x20fn)]);
  });

  test('without PROBE nobody is told; all the same nothing is mapped there', () => {
    const { iommu } = confined(0, [[0x10, 0xffff]]);
    expect(iommu.map(7, 0n, 0xfffn, 0n, RW)).toBe(S_INVAL);
    expect(iommu.map(7, 0x1_0000n, 0x1_0fffn, 0n, RW)).toBe(S_OK);
  });
});

describe('apertures', () => {
  test('are the input range without what is reserved for any endpoint of the domain, the same until one comes or goes', () => {
    const iommu = new VirtioIommu({ memory: GuestMemory.ofBytes(4096), inputRange: { start: 0x1000n, last: 0xffff_ffffn } });
    const reserved = (start: bigint, last: bigint) => ({ kind: 'reserved', start, last }) as const;
    iommu.addEndpoint(1, [reserved(0xfee0_0000n, 0xfeef_ffffn)]);
    iommu.addEndpoint(2, [reserved(0x1000n, 0x1fffn), reserved(0xfeef_0000n, 0xfeff_ffffn), reserved(2n ** 40n, 2n ** 41n - 1n)]);
    iommu.addEndpoint(3, [reserved(0n, 0xffffn), reserved(0xffff_0000n, 0x1_0000_ffffn)]);
    iommu.negotiate();
    const apertures = (endpoint: number) => iommu.spaceOf(endpoint)!.apertures.map(({ first, last }) => [first, last]);
    iommu.attach(7, 1);
    expect(apertures(1)).toEqual([
      [1, 0xfedff],
      [0xfef00, 0xfffff],
    ]);
    const { apertures: answered } = iommu.spaceOf(1)!;
    expect(iommu.spaceOf(1)!.apertures).toBe(answered);
    iommu.attach(7, 2);
    expect(apertures(1)).toEqual([
      [2, 0xfedff],
      [0xff000, 0xfffff],
    ]);
    iommu.detach(7, 1);
    expect(apertures(2)).toEqual([
      [2, 0xfeeef],
      [0xff000, 0xfffff],
    ]);
    iommu.attach(7, 3);
    expect(apertures(3)).toEqual([
      [0x10, 0xfeeef],
      [0xff000, 0xfffef],
    ]);
  });
});

describe('MAP (5.13.6.5)', () => {
  test('PA = VA - virt_start + phys_start, within the range and its permissions', () => {
    const iommu = attached();
    expect(iommu.map(1, 0x1_0000_0000n, 0x1_0000_2fffn, 0x7_0000_8000n, 1)).toBe(S_OK);
    expect(translate(iommu, 0x1_0000_2abcn)).toBe(0x7_0000_aabcn);
    expect(translate(iommu, 0x1_0000_2abcn, WRITE)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    expect(translate(iommu, 0x1_0000_2abcn, READ_WRITE)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    expect(translate(iommu, 0xffff_ffffn)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    expect(translate(iommu, 0x1_0000_3000n)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    expect(iommu.map(1, 0x4000n, 0x4fffn, 0x9000n, 2)).toBe(S_OK);
    expect(translate(iommu, 0x4000n, WRITE)).toBe(0x9000n);
    expect(translate(iommu, 0x4000n, READ)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    // There is no permission to execute: it is a read.
    expect(translate(iommu, 0x4000n, EXECUTE)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    expect(translate(iommu, 0x1_0000_2abcn, EXECUTE)).toBe(0x7_0000_aabcn);
    expect(iommu.map(1, 0x5000n, 0x5fffn, 0x9000n, 0)).toBe(S_OK);
    expect(translate(iommu, 0x5000n, READ)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    // A mapping that lets nothing through is none for hardware.
    expect(runsOf(iommu.spaceOf(EP)!).map(({ iova }) => iova)).toEqual([4, 0x10_0000]);
  });

  test('the answer speaks for the largest aligned block that lies in the mapping', () => {
    const iommu = attached();
    const lg2 = (address: bigint) => iommu.translate(EP, NO_PASID, hiOf(address), loOf(address), READ);
    iommu.map(1, 0x1000n, 0x3f_ffffn, 0x1000n, RW);
    expect(lg2(0x1000n)).toBe(12);
    expect(lg2(0x2000n)).toBe(13);
    expect(lg2(0x20_0000n)).toBe(21);
    iommu.map(1, 0x4000_0000n, 0x7fff_ffffn, 0x8000_1000n, RW);
    expect(lg2(0x5000_0000n)).toBe(12);
  });

  test('what is not aligned on the granule: RANGE', () => {
    const iommu = attached({ pageSizeMask: 0x1_0000n });
    expect(iommu.map(1, 0x1000n, 0x1_ffffn, 0n, RW)).toBe(S_RANGE);
    expect(iommu.map(1, 0x1_0000n, 0x1_8fffn, 0n, RW)).toBe(S_RANGE);
    expect(iommu.map(1, 0x1_0000n, 0x1_ffffn, 0x1000n, RW)).toBe(S_RANGE);
    expect(iommu.map(1, 0x1_0000n, 0x1_ffffn, 0x2_0000n, RW)).toBe(S_OK);
  });

  test('outside the input range, or past the last address: RANGE; an empty range: INVAL', () => {
    const iommu = attached({ inputRange: { start: 0x1000n, last: 0xffff_ffffn } });
    expect(iommu.map(1, 0n, 0xfffn, 0n, RW)).toBe(S_RANGE);
    expect(iommu.map(1, 0xffff_f000n, 0x1_0000_0fffn, 0n, RW)).toBe(S_RANGE);
    expect(iommu.map(1, 0x1000n, 0x2fffn, 0xffff_ffff_ffff_f000n, RW)).toBe(S_RANGE);
    expect(iommu.map(1, 0x2000n, 0x1fffn, 0n, RW)).toBe(S_INVAL);
    expect(iommu.map(1, 0xffff_f000n, 0xffff_ffffn, 0xffff_ffff_ffff_f000n, RW)).toBe(S_OK);
  });

  test('the whole of 64 bits in one', () => {
    const iommu = attached({ inputRange: { start: 0n, last: 2n ** 64n - 1n } });
    expect(iommu.map(1, 0n, 2n ** 64n - 1n, 0n, RW)).toBe(S_OK);
    expect(translate(iommu, 2n ** 64n - 1n)).toBe(2n ** 64n - 1n);
    expect(iommu.unmap(1, 0n, 2n ** 64n - 1n)).toBe(S_OK);
    expect(iommu.counts.mappings).toBe(0);
  });

  test('where a mapping is already, in a bypass domain, with unknown flags: INVAL; no domain: NOENT', () => {
    const iommu = attached();
    iommu.map(1, 0x4000n, 0x7fffn, 0n, RW);
    expect(iommu.map(1, 0x7000n, 0x8fffn, 0n, RW)).toBe(S_INVAL);
    expect(iommu.map(1, 0x3000n, 0x4fffn, 0n, RW)).toBe(S_INVAL);
    expect(iommu.map(1, 0x3000n, 0x8fffn, 0n, RW)).toBe(S_INVAL);
    expect(iommu.map(1, 0x8000n, 0x8fffn, 0n, 8)).toBe(S_INVAL);
    expect(iommu.map(2, 0x8000n, 0x8fffn, 0n, RW)).toBe(S_NOENT);
    iommu.attach(3, OTHER, 1);
    expect(iommu.map(3, 0x8000n, 0x8fffn, 0n, RW)).toBe(S_INVAL);
  });

  test('the MMIO flag needs its feature; such a mapping reaches device memory', () => {
    const iommu = attached();
    expect(iommu.map(1, 0x8000n, 0x8fffn, 0xfe00_0000n, 6)).toBe(S_OK);
    expect(translate(iommu, 0x8010n, WRITE)).toBe(0xfe00_0010n);
    iommu.negotiate(iommu.device.offeredFeatures & ~F_MMIO);
    iommu.attach(1, EP);
    expect(iommu.map(1, 0x8000n, 0x8fffn, 0xfe00_0000n, 6)).toBe(S_INVAL);
  });

  test('overlapping a region reserved for an endpoint of the domain is rejected (5.13.6.8.1.2)', () => {
    const iommu = attached();
    iommu.attach(1, OTHER);
    expect(iommu.map(1, 0xfede_f000n, 0xfee0_0fffn, 0n, RW)).toBe(S_INVAL);
    expect(iommu.map(1, 0xfede_f000n, 0xfedf_ffffn, 0n, RW)).toBe(S_OK);
    iommu.detach(1, OTHER);
    expect(iommu.map(1, 0xfee0_0000n, 0xfee0_0fffn, 0n, RW)).toBe(S_OK);
  });

  test('writes to the MSI doorbell pass as they are', () => {
    const iommu = make();
    iommu.attach(1, OTHER);
    expect(translate(iommu, 0xfee0_1004n, WRITE, OTHER)).toBe(0xfee0_1004n);
    expect(translate(iommu, 0xfef0_0000n, WRITE, OTHER)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
  });

  test('no more mappings than the cap: NOMEM, and room again after an UNMAP', () => {
    const iommu = attached({ mappingLimit: 3 });
    iommu.attach(2, OTHER);
    const page = (domain: number, i: bigint) => iommu.map(domain, i << 12n, (i << 12n) | 0xfffn, 0n, RW);
    expect([page(1, 0n), page(2, 0n), page(1, 1n), page(1, 2n), page(2, 2n)]).toEqual([S_OK, S_OK, S_OK, S_NOMEM, S_NOMEM]);
    expect(iommu.unmap(1, 0n, 0xfffn)).toBe(S_OK);
    expect(page(2, 2n)).toBe(S_OK);
    expect(iommu.counts.mappings).toBe(3);
  });

  test('no more domains than the cap: NOMEM; the last endpoint of a domain may move to a new one', () => {
    const iommu = make({ domainLimit: 1 });
    expect(iommu.attach(1, EP)).toBe(S_OK);
    expect(iommu.attach(2, OTHER)).toBe(S_NOMEM);
    expect(iommu.attach(1, OTHER)).toBe(S_OK);
    expect(iommu.attach(2, OTHER)).toBe(S_NOMEM);
    expect(iommu.detach(1, EP)).toBe(S_OK);
    expect(iommu.attach(2, OTHER)).toBe(S_OK);
    expect(iommu.counts.domains).toBe(1);
  });
});

describe('UNMAP (5.13.6.6): its seven examples, a page for a byte', () => {
  const page = (first: number, last: number) => [BigInt(first) << 12n, (BigInt(last) << 12n) | 0xfffn] as const;
  type Step = ['map' | 'unmap', number, number, status: number, mappings: number];
  test.each<[string, Step[]]>([
    ['(1) nothing mapped', [['unmap', 0, 4, S_OK, 0]]],
    [
      '(2) one mapping',
      [
        ['map', 0, 9, S_OK, 1],
        ['unmap', 0, 9, S_OK, 0],
      ],
    ],
    [
      '(3) two mappings',
      [
        ['map', 0, 4, S_OK, 1],
        ['map', 5, 9, S_OK, 2],
        ['unmap', 0, 9, S_OK, 0],
      ],
    ],
    [
      '(4) part of a mapping',
      [
        ['map', 0, 9, S_OK, 1],
        ['unmap', 0, 4, S_RANGE, 1],
      ],
    ],
    [
      '(5) one of two',
      [
        ['map', 0, 4, S_OK, 1],
        ['map', 5, 9, S_OK, 2],
        ['unmap', 0, 4, S_OK, 1],
      ],
    ],
    [
      '(6) more than the mapping',
      [
        ['map', 0, 4, S_OK, 1],
        ['unmap', 0, 9, S_OK, 0],
      ],
    ],
    [
      '(7) a hole between',
      [
        ['map', 0, 4, S_OK, 1],
        ['map', 10, 14, S_OK, 2],
        ['unmap', 0, 14, S_OK, 0],
      ],
    ],
    [
      'whole mappings stay where a later one would be split',
      [
        ['map', 0, 4, S_OK, 1],
        ['map', 5, 9, S_OK, 2],
        ['unmap', 0, 7, S_RANGE, 2],
      ],
    ],
    [
      'the tail of a mapping',
      [
        ['map', 3, 9, S_OK, 1],
        ['unmap', 5, 20, S_RANGE, 1],
      ],
    ],
    [
      'the middle of a mapping',
      [
        ['map', 3, 9, S_OK, 1],
        ['unmap', 5, 6, S_RANGE, 1],
      ],
    ],
  ])('%s', (_name, steps) => {
    const iommu = attached();
    for (const [what, first, last, status, mappings] of steps) {
      const range = page(first, last);
      expect(what === 'map' ? iommu.map(1, ...range, 0n, RW) : iommu.unmap(1, ...range)).toBe(status);
      expect(iommu.counts.mappings).toBe(mappings);
    }
  });

  test('a range that is no pages is right where nothing is mapped, and splits where something is', () => {
    const iommu = attached();
    iommu.map(1, 0x4000n, 0x5fffn, 0n, RW);
    expect(iommu.unmap(1, 0x4001n, 0x5fffn)).toBe(S_RANGE);
    expect(iommu.unmap(1, 0x4000n, 0x5ffen)).toBe(S_RANGE);
    expect(iommu.unmap(1, 0x3abcn, 0x3abdn)).toBe(S_OK);
    expect(iommu.unmap(1, 0x3abcn, 0x6123n)).toBe(S_OK);
    expect(iommu.counts.mappings).toBe(0);
    expect(iommu.unmap(1, 0x5n, 0x4n)).toBe(S_INVAL);
  });

  test('no domain: NOENT; a bypass domain: INVAL', () => {
    const iommu = make();
    expect(iommu.unmap(1, 0n, 0xfffn)).toBe(S_NOENT);
    iommu.attach(1, EP, 1);
    expect(iommu.unmap(1, 0n, 0xfffn)).toBe(S_INVAL);
  });

  test('what was translated before is forgotten', () => {
    const iommu = attached();
    iommu.map(1, 0x20_0000n, 0x3f_ffffn, 0x20_0000n, RW);
    expect(translate(iommu, 0x20_1000n)).toBe(0x20_1000n);
    iommu.unmap(1, 0x20_0000n, 0x3f_ffffn);
    expect(translate(iommu, 0x20_1000n)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    iommu.map(1, 0x20_1000n, 0x20_1fffn, 0x7000n, 1);
    expect(translate(iommu, 0x20_1000n)).toBe(0x7000n);
  });

  test('nor does the IOTLB answer an endpoint that has left its domain, or has joined another one', () => {
    const iommu = attached();
    iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, RW);
    iommu.attach(2, OTHER);
    iommu.map(2, 0x1000n, 0x1fffn, 0x7000n, RW);
    const again = (endpoint = EP) => [translate(iommu, 0x1000n, READ, endpoint), translate(iommu, 0x1000n, READ, endpoint)];
    expect([again(), again(OTHER), again()]).toEqual([
      [0x5000n, 0x5000n],
      [0x7000n, 0x7000n],
      [0x5000n, 0x5000n],
    ]);
    expect([iommu.iotlbHits, iommu.iotlbMisses]).toEqual([4, 2]);
    const none = targetFault('virtio-iommu', FAULT_R_DOMAIN);
    iommu.detach(1, EP);
    expect(again()).toEqual([none, none]);
    iommu.attach(2, EP);
    expect(again()).toEqual([0x7000n, 0x7000n]);
    const remove = iommu.addEndpoint(1);
    iommu.attach(2, 1);
    expect(again(1)).toEqual([0x7000n, 0x7000n]);
    remove();
    const unknown = targetFault('virtio-iommu', FAULT_R_UNKNOWN);
    expect(again(1)).toEqual([unknown, unknown]);
  });
});

describe('what is not the specification’s', () => {
  test('PROBE says what is reserved; null for an endpoint that is not there', () => {
    const iommu = make();
    expect(iommu.probe(OTHER)).toEqual([{ kind: 'msi', start: 0xfee0_0000n, last: 0xfeef_ffffn }]);
    expect(iommu.probe(EP)).toEqual([]);
    expect(iommu.probe(9)).toBeNull();
  });

  test('MAP and UNMAP without their feature: UNSUPP', () => {
    const iommu = make();
    iommu.negotiate(F_VERSION_1);
    iommu.attach(1, EP);
    expect(iommu.map(1, 0n, 0xfffn, 0n, RW)).toBe(S_UNSUPP);
    expect(iommu.unmap(1, 0n, 0xfffn)).toBe(S_UNSUPP);
  });

  test('a request with a PASID, or from an endpoint that nobody knows, is no request for this device', () => {
    const iommu = attached();
    iommu.map(1, 0n, 0xfffn, 0n, RW);
    expect(iommu.translate(EP, 0, 0, 0, READ)).toBe(targetFault('virtio-iommu', FAULT_R_UNKNOWN));
    expect(translate(iommu, 0n, READ, 9)).toBe(targetFault('virtio-iommu', FAULT_R_UNKNOWN));
  });

  test('impossible options and endpoints throw', () => {
    const memory = GuestMemory.ofBytes(4096);
    expect(() => new VirtioIommu({ memory, pageSizeMask: 0x801n })).toThrow(RangeError);
    expect(() => new VirtioIommu({ memory, inputRange: { start: 0n, last: 0x1234n } })).toThrow(RangeError);
    expect(() => new VirtioIommu({ memory, domainRange: { first: 2, last: 1 } })).toThrow(RangeError);
    expect(() => new VirtioIommu({ memory, mappingLimit: 0 })).toThrow(RangeError);
    const iommu = make();
    const region = { kind: 'reserved', start: 0x1000n, last: 0x1fffn } as const;
    expect(() => iommu.addEndpoint(EP)).toThrow(RangeError);
    expect(() => iommu.addEndpoint(1, [region, region])).toThrow(RangeError);
    expect(() => iommu.addEndpoint(1, [{ ...region, last: 0x1ffen }])).toThrow(RangeError);
    expect(() => iommu.addEndpoint(-1)).toThrow(RangeError);
    const observer = { attach: () => 0, changed: () => undefined, flush: () => 0 };
    const dispose = iommu.observe(observer);
    expect(() => iommu.observe(observer)).toThrow();
    dispose();
    iommu.observe(observer);
  });

  test('an endpoint that is taken away leaves its domain', () => {
    const iommu = make();
    const remove = iommu.addEndpoint(1);
    iommu.attach(1, 1);
    remove();
    remove();
    expect(iommu.counts.domains).toBe(0);
    expect(iommu.attach(1, 1)).toBe(S_NOENT);
    expect(iommu.spaceOf(1)).toBeNull();
  });
});
