import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { recipes } from '../../src/cli/boot/machines/registry.ts';
import type { GuestChoices, GuestTask } from '../../src/cli/boot/recipe.ts';
import { boot } from '../../src/cli/boot/run.ts';
import { useLabQemu } from './lab.ts';
import { riscvModule } from './riscv/module.ts';

/*
 * Stock Linux drives our IOMMUs: boots, uses a disk behind one, provokes a forbidden DMA and says so in its log. Every check is the guest's own, or
 * counted on this side (src/cli/boot/run.ts).
 */

let restore = () => {};
beforeAll(() => {
  restore = useLabQemu();
});
afterAll(() => restore());

interface Guest extends Partial<GuestChoices> {
  readonly name: string;
  readonly iommu: string;
  /** What its notes must say besides. */
  readonly says?: RegExp;
}

const guests: readonly Guest[] = [
  { name: 'VT-d, lazy invalidation, one processor', iommu: 'vtd' },
  {
    name: 'VT-d, strict invalidation, interrupts remapped, two processors, driver bound again, reboot',
    iommu: 'vtd',
    remap: true,
    cpus: 2,
    tasks: ['rebind', 'reboot'],
    append: ['iommu.strict=1'],
  },
  { name: 'VT-d, scalable mode, network and entropy', iommu: 'vtd', variant: 'scalable', tasks: ['network'] },
  { name: 'virtio-iommu, driver bound again, reboot', iommu: 'virtio', tasks: ['rebind', 'reboot'] },
  { name: 'AMD-Vi, host tables, strict invalidation', iommu: 'amd', append: ['iommu.strict=1'] },
  {
    name: 'AMD-Vi, guest tables, interrupts remapped, two processors, driver bound again, reboot',
    iommu: 'amd',
    variant: 'v2',
    remap: true,
    cpus: 2,
    tasks: ['rebind', 'reboot'],
  },
  { name: 'SMMUv3, first stage, driver bound again, reboot', iommu: 'smmuv3', tasks: ['rebind', 'reboot'] },
  // MSI-X of the disk and of the SMMU itself.
  { name: 'SMMUv3, events told by messages through the ITS', iommu: 'smmuv3', variant: 'msi', says: /interrupt .*ITS.*arm-smmu-v3-evtq/ },
  {
    name: 'SMMUv3, second stage, lazy invalidation, two processors',
    iommu: 'smmuv3',
    variant: 'stage2',
    cpus: 2,
    append: ['iommu.strict=0'],
  },
  // Two interrupt files, and domains that outlive the driver.
  { name: 'RISC-V, first stage, two processors, driver bound again, reboot', iommu: 'riscv', cpus: 2, tasks: ['rebind', 'reboot'] },
];

/** On a busy machine; a quiet one takes 10 to 20 s a guest. */
const SECONDS = 240;

describe('stock Linux', () => {
  test.each(guests)('$name', async ({ iommu, name: _name, says, ...wanted }) => {
    const recipe = recipes.find((one) => one.iommu === iommu)!;
    const choices: GuestChoices = { cpus: 1, remap: false, tasks: [], append: [], variant: null, ...wanted };
    const lines: string[] = [];
    const report = await boot({
      recipe,
      choices,
      kernel: null,
      modules: recipe.needsModule ? [await riscvModule(() => {})] : [],
      record: null,
      seconds: SECONDS,
      line: (text) => lines.push(text),
      progress: () => {},
    });
    const wrong = report.checks.filter(({ ok }) => !ok);
    expect(wrong, lines.slice(-80).join('\n')).toEqual([]);
    // Each kind of check is there, so that none passed by being left out.
    expect(report.checks.map((check) => check.name)).toEqual(
      expect.arrayContaining([
        'disk',
        'mkfs',
        'mount',
        'write',
        'read-back',
        'forbidden-dma',
        'driver',
        'fault seen',
        ...(wanted.tasks ?? []).flatMap(checksOf),
        ...(wanted.tasks?.includes('rebind') && 'rebind' in recipe.taskModules ? ['vfio-pci'] : []),
      ]),
    );
    if (says !== undefined) expect(report.notes.join('\n')).toMatch(says);
    expect(report.endpoints.disk.bytes).toBeGreaterThan(3 << 20);
    if (wanted.tasks?.includes('network'))
      expect(report.endpoints.network).toMatchObject({ echoes: 3, entropyBytes: expect.toSatisfy((bytes: number) => bytes >= 4096) });
  });
});

/** What a task of the guest's is checked by. */
function checksOf(task: GuestTask): readonly string[] {
  return { reboot: ['persist'], rebind: ['reset', 'rebind'], network: ['network', 'entropy'] }[task];
}
