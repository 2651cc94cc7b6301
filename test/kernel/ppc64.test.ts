import { expect, test } from 'vitest';
import { openLab } from './lab.ts';
import { runInPpc64 } from './ppc64/boot.ts';

test('the host contract holds over VFIO sPAPR TCE on a pSeries guest, versions 1 and 2', async () => {
  const results = await runInPpc64(await openLab());
  const of = (status: string) => results.filter((result) => result.status === status);
  for (const version of [1, 2]) {
    const passed = of('passed').filter(({ title }) => title.includes(`version ${version}`)).length;
    console.log(`real kernel, pSeries: vfio-spapr-tce version ${version} ${passed} passed`);
  }
  for (const { title } of of('skipped')) console.log(`  not applicable: ${title}`);
  expect(of('failed').map(({ title, message }) => `${title}\n${message}`)).toEqual([]);
  expect(of('passed').length).toBeGreaterThan(40);
});
