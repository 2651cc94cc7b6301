import { describe, expect, test } from 'vitest';
import { simRig } from '../../src/cli/replay/rig-sim.ts';
import { replay } from '../../src/cli/replay/run.ts';
import { reaching } from '../reaching.ts';
import { recording } from './recordings.ts';
import { SHOWN, ZpciGuest } from './zpci-guest.ts';

/* POWER hosts have no window where an s390 guest's aperture lies (test/cli/replay-recordings.test.ts). */
const SEEDS = [1, 2];
const STEPS = 500;

describe.each([
  ['iommufd', 'none', 'shadow'],
  ['vfio-type1', 'none', 'shadow'],
  ['iommufd', 'smmuv3', 'user-owned'],
] as const)('strict invalidation, faults, functions disabled and enabled again: %s, hardware %s, %s', (host, hardware, path) => {
  const shown = reaching(`s390 guests over ${host}, ${path}`, ...SHOWN);

  test.each(SEEDS)('guest %i: nothing is wrong', async (seed) => {
    shown();
    const guest = new ZpciGuest(seed, shown);
    for (let i = 0; i < STEPS; i++) guest.step();
    const rig = simRig(host, 4, hardware);
    try {
      const { answers, dma, hardwareDma, notes } = await replay({ file: recording(guest.lines), path }, rig);
      expect([...answers.details, ...dma.details, ...hardwareDma.details]).toEqual([]);
      expect(notes).toContainEqual(expect.stringMatching(/^\d+ refreshes that the recorded host had no room for were carried out$/));
      expect(answers.checked).toBeGreaterThan(300);
      expect(hardwareDma.checked).toBeGreaterThan(100);
    } finally {
      rig.close();
    }
  });
});
