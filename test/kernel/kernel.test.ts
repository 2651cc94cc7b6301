import { beforeAll, describe, expect, test } from 'vitest';
import { type Iommu, iommus, openLab, runInVm, type VmFile } from './lab.ts';
import { replayInVm, replaySimulated } from './replay.ts';

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

/** What runs behind every IOMMU, and what need not run three times. */
const everywhere = ['iommufd', 'vfio-type1', 'devices'];
const once = ['iommufd-abi', 'vfio-abi', 'iommufd-objects'];

describe('hosts on the real kernel', () => {
  for (const iommu of iommus) {
    const names = iommu === 'vtd' ? [...everywhere, ...once] : everywhere;
    test(`${names.join(', ')} behind ${iommu}`, () => passes(iommu, names));
  }
});

describe('a recorded pseries guest over the real kernel', () => {
  test('is answered right, and lands right, with the host calls of the simulated kernel', async () => {
    const simulated = await replaySimulated();
    for (const result of await replayInVm(lab)) {
      const { host, answers, dma, hardwareDma, hostCalls, seconds } = result;
      console.log(
        `real kernel, vtd: ${host}: ${answers.checked} answers, ${hardwareDma.checked} DMAs by the device, ${hostCalls.total} host calls, ${seconds.toFixed(0)} s`,
      );
      expect(result).toMatchObject({ port: 'kernel', answers: { wrong: 0 }, dma: { wrong: 0 }, hardwareDma: { wrong: 0 } });
      expect(answers.checked).toBe(simulated.answers.checked);
      expect(dma.checked).toBe(simulated.dma.checked);
      expect(hardwareDma.checked).toBeGreaterThan(1000);
      expect(hostCalls).toEqual(simulated.hostCalls);
    }
  });
});
