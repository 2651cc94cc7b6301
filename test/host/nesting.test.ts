import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { NestingHardware, UserStage } from '../../src/host/host.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { amd, type IommuConfig, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';

/* What hardware takes of a first stage, by what IOMMU_GET_HW_INFO says of it, and what it is refused for by name. */

const [SMTS, SSTS, FSTS, NEST, SRS, EAFS] = [1n << 43n, 1n << 46n, 1n << 47n, 1n << 26n, 1n << 31n, 1n << 34n];
const WHOLE = SMTS | SSTS | FSTS | NEST;
const VTD: UserStage = { kind: 'vtd', root: 0n, addressWidth: 48 };
const STE: UserStage = { kind: 'smmuv3', ste: [1n, 0n] };

function nestingOf(nesting: NonNullable<IommuConfig['nesting']> | null) {
  const kernel = simKernel({ iommus: [{ nesting }] });
  const host = new IommufdHost(kernel);
  const device = host.openDevice(kernel.device().path);
  return { kernel, device, nesting: host.nesting };
}

describe('a first stage of the user’s', () => {
  test.each<[string, NonNullable<IommuConfig['nesting']>, UserStage, RegExp | null]>([
    ['five levels, without', vtd({ cap: 0n, ecap: WHOLE }), { ...VTD, addressWidth: 57 }, /5 levels \(CAP\.FS5LP\)/],
    ['five levels', vtd(), { ...VTD, addressWidth: 57 }, null],
    ['supervisor requests, without', vtd({ ecap: WHOLE | EAFS }), { ...VTD, supervisor: true }, /supervisor requests \(ECAP\.SRS\)/],
    ['supervisor requests', vtd({ ecap: WHOLE | SRS }), { ...VTD, supervisor: true }, null],
    ['extended accessed flags, without', vtd({ ecap: WHOLE | SRS }), { ...VTD, extendedAccess: true }, /\(ECAP\.EAFS\)/],
    ['extended accessed flags', vtd({ ecap: WHOLE | EAFS }), { ...VTD, extendedAccess: true }, null],
    ['nothing beside', vtd({ cap: 0n, ecap: WHOLE }), VTD, null],
    ['of another kind', vtd(), STE, /the first stage is of smmuv3, the hardware vtd/],
    ['of another kind', smmuv3(), VTD, /the first stage is of vtd, the hardware smmuv3/],
    ['a stream table entry', smmuv3(), STE, null],
    ['for hardware that takes none', vtd({ ecap: SMTS | SSTS | FSTS }), VTD, /ECAP\.NEST/],
    ['for AMD-Vi', amd(), VTD, /AMD-Vi: the kernel takes no invalidations/],
  ])('%s', (_, hardware, stage, reason) => {
    const { nesting, device } = nestingOf(hardware);
    const refused = nesting.refuses(device, stage);
    if (reason === null) expect(refused).toBeNull();
    else expect(refused).toMatch(reason);
  });

  test('what the kernel says of the hardware is asked once; what it does not say is the reason', () => {
    const plain = nestingOf(null);
    expect(plain.nesting.hardwareOf(plain.device)).toMatch(/names no IOMMU that takes first stages/);
    const failing = nestingOf(vtd());
    failing.kernel.hooks.fail({ kind: 'IOMMU_GET_HW_INFO', nth: 1, errno: errno.EIO });
    expect(failing.nesting.hardwareOf(failing.device)).toMatch(/IOMMU_GET_HW_INFO: EIO/);
    const known = nestingOf(vtd());
    const before = known.nesting.hardwareOf(known.device);
    const asked = known.kernel.hooks.counts.get('IOMMU_GET_HW_INFO');
    expect(known.nesting.hardwareOf(known.device)).toBe(before);
    known.nesting.refuses(known.device, VTD);
    expect(known.kernel.hooks.counts.get('IOMMU_GET_HW_INFO')).toBe(asked);
  });

  test.each<[string, number[], object | string]>([
    ['both stages, 48 bits out', [0x1003, 0, 0, 0, 0, 0x15], { outputBits: 48, asidBits: 16, liveSplit: false }],
    ['8 bits of ASID, 36 bits out', [3, 0, 0, 2 << 11, 0, 0x11], { outputBits: 36, asidBits: 8, liveSplit: true }],
    ['52 bits out, of which 48 serve', [3, 0, 0, 1 << 11, 0, 0x16], { outputBits: 48, liveSplit: false }],
    ['an output width that there is not', [3, 0, 0, 0, 0, 0x17], { outputBits: 48 }],
    ['no first stage', [1, 0, 0, 0, 0, 0x15], 'SMMUv3 without both stages (IDR0.S1P, IDR0.S2P)'],
    ['no second stage', [2, 0, 0, 0, 0, 0x15], 'SMMUv3 without both stages (IDR0.S1P, IDR0.S2P)'],
    ['no granule of 4 KiB', [3, 0, 0, 0, 0, 0x45], 'SMMUv3 without the 4 KiB granule (IDR5.GRAN4K)'],
  ])('SMMUv3 (IHI 0070, 6.3.1 to 6.3.6): %s', (_, idr, expected) => {
    const { nesting, device } = nestingOf(smmuv3({ idr }));
    const hardware = nesting.hardwareOf(device);
    if (typeof expected === 'string') expect(hardware).toBe(expected);
    else expect(hardware).toMatchObject(expected);
  });
});

test('a page that was left for the queue of one more SMMUv3, which could not have one, is the next one’s', () => {
  const kernel = simKernel({
    iommus: [0, 1, 2].map(() => ({ nesting: smmuv3({ tegra241: {} }) })),
    devices: [0, 1, 2].map((iommu) => ({ name: `vfio${iommu}`, iommu })),
  });
  const host = new IommufdHost(kernel);
  const devices = kernel.devices.map(({ path }) => host.openDevice(path));
  const hardware = host.nesting.hardwareOf(devices[0]) as NestingHardware;
  const parent = host.nesting.createParent(devices[0], hardware, true);
  parent.openQueues(0x100, 0x101);
  const queues = () => kernel.hooks.counts.get('IOMMU_HW_QUEUE_ALLOC');
  expect(queues()).toBe(1);
  kernel.hooks.fail({ kind: 'IOMMU_HW_QUEUE_ALLOC', nth: 1, errno: errno.ENOMEM });
  expect([parent.name(devices[0], 1), parent.name(devices[1], 2), queues()], 'without a queue').toEqual([0, 0, 2]);
  expect([parent.name(devices[2], 3), queues()]).toEqual([0, 3]);
  parent.close();
  host.close();
  expect(kernel.live()).toMatchObject({ domains: 0, pinnedBytes: 0 });
});
