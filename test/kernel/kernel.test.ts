import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runInArm64 } from './arm64/boot.ts';
import { simulatedOperations, unexplained } from './arm64/compare.ts';
import type { CaseResult } from './foreign/vitest-shim.ts';
import { closeLab, type Iommu, inTurn, iommus, openLab, runInVm, type VmFile } from './lab.ts';
import { firstDifference } from './lockstep/compare.ts';
import { generate } from './lockstep/generate.ts';
import { firstSeed, playInVm, programCount } from './lockstep/run.ts';
import { runInPpc64 } from './ppc64/boot.ts';
import { replayInVm, replaySimulated } from './replay.ts';

/*
 * The host drivers on the real kernel. Each test boots the lab's VM once and runs there what test/kernel/vm has; the contract
 * is the same suite that `npm test` runs on the simulated kernel.
 */

beforeAll(openLab);
afterAll(closeLab);

function report(iommu: Iommu, files: readonly VmFile[]): void {
  const counts = files.map(
    ({ name, passed, skipped }) => `${name} ${passed} passed${skipped.length > 0 ? `, ${skipped.length} not applicable` : ''}`,
  );
  console.log(`real kernel, ${iommu}: ${counts.join('; ')}`);
  for (const { skipped } of files) for (const title of skipped) console.log(`  not applicable: ${title}`);
}

async function passes(iommu: Iommu, names: readonly string[]): Promise<void> {
  const files = await runInVm({ iommu, files: names });
  report(iommu, files);
  expect(files.flatMap(({ failures }) => failures)).toEqual([]);
  expect(files.map(({ name }) => name).sort()).toEqual([...names].sort());
  for (const { name, passed } of files) expect(passed, name).toBeGreaterThan(0);
}

/** The cases that a compiled guest ran: none failed. Returns how many passed. */
function passedCases(machine: string, cases: readonly CaseResult[]): number {
  const of = (status: string) => cases.filter((result) => result.status === status).map(({ title, message }) => `${title}\n${message}`);
  console.log(`real kernel, ${machine}: ${of('passed').length} passed`);
  for (const title of of('skipped')) console.log(`  not applicable: ${title.trim()}`);
  expect(of('failed')).toEqual([]);
  return of('passed').length;
}

/** What runs behind every IOMMU, and what need not run three times. */
const everywhere = ['iommufd', 'vfio-type1', 'devices'];
const once = ['iommufd-abi', 'vfio-abi', 'iommufd-objects', 'iommufd-dirty'];

// The longest first: they run beside each other, as many as there are processors.
describe.concurrent('on the real kernel', { timeout: 1_200_000 }, () => {
  test('the host contract holds over VFIO sPAPR TCE, versions 1 and 2, in a pSeries guest', async () => {
    const results = await inTurn(() => runInPpc64());
    for (const version of [1, 2]) {
      const ofVersion = results.filter(({ title }) => title.includes(`version ${version}`));
      expect(passedCases(`pSeries, vfio-spapr-tce version ${version}`, ofVersion)).toBeGreaterThan(20);
    }
  });

  test('a recorded pseries guest is answered right, and lands right, with the host calls of the simulated kernel', async () => {
    const simulated = await replaySimulated();
    for (const result of await inTurn(() => replayInVm())) {
      const { host, answers, dma, hardwareDma, hostCalls, seconds } = result;
      const counts = `${answers.checked} answers, ${hardwareDma.checked} DMAs by the device, ${hostCalls.total} host calls`;
      console.log(`real kernel, vtd: ${host}: ${counts}, ${seconds.toFixed(0)} s`);
      expect(result).toMatchObject({ port: 'kernel', answers: { wrong: 0 }, dma: { wrong: 0 }, hardwareDma: { wrong: 0 } });
      expect(answers.checked).toBe(simulated.answers.checked);
      expect(dma.checked).toBe(simulated.dma.checked);
      expect(hardwareDma.checked).toBeGreaterThan(1000);
      expect(hostCalls).toEqual(simulated.hostCalls);
    }
  });

  test('guests of an SMMUv3, of sPAPR, of virtio-iommu and of RISC-V run on the nested and the user-owned path', async () => {
    const { cases } = await inTurn(() => runInArm64('nested', ['paths']));
    expect(passedCases('arm64, paths', cases)).toBe(9);
  });

  test('an SMMUv3 that nests does on the simulated kernel what it does on the real one, operation by operation', async () => {
    const { cases, operations } = await inTurn(() => runInArm64('nested', ['contract', 'objects', 'operations']));
    expect(passedCases('arm64, nested', cases)).toBeGreaterThan(35);
    expect(operations.length).toBeGreaterThan(100);
    console.log(`real kernel, arm64, nested: ${operations.length} operations compared`);
    expect(unexplained(operations, simulatedOperations())).toEqual([]);
  });

  test('the host contract behind an SMMUv3 with a second stage only', async () => {
    const { cases } = await inTurn(() => runInArm64('s2', ['contract']));
    expect(passedCases('arm64, s2', cases)).toBeGreaterThan(25);
  });

  test('random programs come to the same on the simulated kernel and on the real one, every result and every byte', async () => {
    const programs = Array.from({ length: programCount }, (_, index) => ({
      seed: firstSeed + index,
      simulated: generate(firstSeed + index),
    }));
    const { areas } = programs[0].simulated;
    const calls = programs.reduce((sum, { simulated }) => sum + simulated.program.length, 0);
    console.log(`real kernel, in lock step: ${programs.length} programs from seed ${firstSeed} on, ${calls} calls`);
    const { played, warned } = await inTurn(() =>
      playInVm(
        areas,
        programs.map(({ simulated }) => simulated.program),
      ),
    );
    const differences = programs.flatMap(({ seed, simulated }, index) => firstDifference(seed, simulated, played[index]) ?? []);
    expect({ differences: differences.slice(0, 5), warned }).toEqual({ differences: [], warned: '' });
  });

  for (const iommu of iommus) {
    const names = iommu === 'vtd' ? [...everywhere, ...once] : everywhere;
    test(`${names.join(', ')} behind ${iommu}`, () => inTurn(() => passes(iommu, names)));
  }
});
