import { beforeAll, describe, expect, test } from 'vitest';
import { type Iommu, iommus, openLab, runInVm, type VmFile } from './lab.ts';

/*
 * The host drivers on the real kernel. Each test boots the lab's VM once and runs there what test/kernel/vm has; the contract
 * is the same suite that `npm test` runs on the simulated kernel.
 */

let lab: string;
beforeAll(async () => {
  lab = await openLab();
});

function report(iommu: Iommu, files: readonly VmFile[]): void {
  const counts = files.map(
    ({ name, passed, skipped }) => `${name} ${passed} passed${skipped.length > 0 ? `, ${skipped.length} not applicable` : ''}`,
  );
  console.log(`real kernel, ${iommu}: ${counts.join('; ')}`);
  for (const { skipped } of files) for (const title of skipped) console.log(`  not applicable: ${title}`);
}

async function passes(iommu: Iommu, names: readonly string[]): Promise<void> {
  const files = await runInVm(lab, { iommu, files: names });
  report(iommu, files);
  expect(files.flatMap(({ failures }) => failures)).toEqual([]);
  expect(files.map(({ name }) => name).sort()).toEqual([...names].sort());
  for (const { name, passed } of files) expect(passed, name).toBeGreaterThan(0);
}

describe('hosts on the real kernel', () => {
  for (const iommu of iommus) {
    test(`the host contract holds behind ${iommu}`, () => passes(iommu, ['iommufd', 'vfio-type1', 'devices']));
  }
});
