import { expect, test } from 'vitest';
import { writeStage } from '../../../src/accel/user-owned/stage-format.ts';
import type { NestingHardware } from '../../../src/host/host.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';

test.each([
  ['vtd', 1],
  ['smmuv3', 2],
] as const)('an empty %s stage takes %i pages, and is none where there are fewer', (kind, pages) => {
  const hardware = { kind, inputBits: 48, outputBits: 44, gigabytePages: true } as unknown as NestingHardware;
  const written = (room: number) => {
    let next = 1;
    const allocator = { allocate: () => (next <= room ? next++ : -1), free: () => {} };
    const stage = writeStage(hardware, GuestMemory.ofBytes(16 * 4096), allocator, 5);
    return { stage, taken: next - 1 };
  };
  expect([written(pages).stage?.stage.kind, written(pages).taken]).toEqual([kind, pages]);
  for (let room = 0; room < pages; room++) expect(written(room).stage).toBe(null);
});
