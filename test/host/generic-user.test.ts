import { describe, expect, test } from 'vitest';
import { DmaPool, sendThroughDevice } from '../../examples/generic-user.ts';
import { hostKinds, openHost } from '../../src/host/registry.ts';
import { type IommuConfig, type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { groupPaths } from './sim-fixture.ts';

/** What each interface runs on, none like the other: the program must not notice. */
const machines: Readonly<Record<string, IommuConfig>> = {
  iommufd: {},
  'vfio-type1': { aperture: { first: 0x10_0000_0000n, last: 0x1f_ffff_ffffn }, pageSizes: 0x4020_0000n | 0x1_0000n },
  'vfio-spapr-tce': { tce: { start32: 0x4000_0000, bytes32: 0x1000_0000 } },
};

function machine(kind: string): { kernel: SimKernel; path: string } {
  const kernel = simKernel({ iommus: [machines[kind] ?? {}] });
  return { kernel, path: kind === 'iommufd' ? kernel.device().path : groupPaths(kernel)[0] };
}

describe('a program without a guest', () => {
  test.each(hostKinds())('does DMA over %s', async (kind) => {
    const { kernel, path } = machine(kind);
    const before = kernel.live();
    const host = openHost(kind, kernel);
    const copy = (_: unknown, from: bigint, to: bigint, count: number) => {
      const bytes = new Uint8Array(count);
      expect(kernel.device().dmaRead(from, bytes)).toBe(0);
      expect(kernel.device().dmaWrite(to, bytes)).toBe(0);
    };
    expect(await sendThroughDevice(host, path, kernel, copy, 'over any IOMMU')).toBe('over any IOMMU');
    host.close();
    expect(kernel.live()).toEqual(before);
  });

  test.each(hostKinds())('what it frees is out of the device’s reach over %s', (kind) => {
    const { kernel, path } = machine(kind);
    const host = openHost(kind, kernel);
    const pool = new DmaPool(host, path, kernel);
    const [first, second] = [pool.allocate(5000), pool.allocate(5000)];
    expect(second.iova).toBeGreaterThanOrEqual(first.iova + 8192n);
    first.free();
    expect(kernel.device().dmaRead(first.iova, new Uint8Array(4))).toBeLessThan(0);
    expect(kernel.device().dmaRead(second.iova + 4999n, new Uint8Array(1))).toBe(0);
    second.free();
    pool.close();
    host.close();
  });
});
