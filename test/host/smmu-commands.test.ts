import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { CommandQueue, type IommufdHost, type Vintf } from '../../src/host/iommufd/index.ts';
import type { SmmuInvalidations } from '../../src/host/iommufd/invalidate.ts';
import { SmmuCommands } from '../../src/host/iommufd/smmu-commands.ts';
import { smmuv3 } from '../../src/host/sim/index.ts';
import { guest } from './guest-tables.ts';

/** Commands of a guest by calls, or by stores into a queue (CMDQV) of the simulated hardware: IHI 0070, chapter 4. */
describe('commands', () => {
  const NH_ALL = 0x10;
  const NH_ASID = 0x11;
  const NSNH_ALL = 0x30;
  const CFGI_CD_ALL = 0x06;
  const SYNC = 0x46;
  const RING = 400;
  const ENTRIES = 16;

  /** `twice`: the erratum. What goes by calls is noted, and what stands in the ring can be read. */
  function machine({ twice = false, queued = true } = {}) {
    const made = guest({ nesting: smmuv3({ tegra241: {} }), reserved: [] });
    const { host, device, space, kernel, ram } = made;
    const parent = (host as IommufdHost).createPageTable(device, space, { nestParent: true });
    const vintf: Vintf = host.createVintf(device, parent);
    vintf.viommu.addDevice(device, 0x100n);
    const called: number[] = [];
    let answer = 0;
    const calls: Pick<SmmuInvalidations, 'addCommand' | 'flush' | 'error'> = {
      addCommand: (word0) => {
        called.push(word0);
        return 0;
      },
      flush: () => answer,
      error: null,
    };
    const commands = new SmmuCommands(kernel, calls as SmmuInvalidations, twice);
    const queue = new CommandQueue(vintf, 0, BigInt(RING) << 12n, new Uint8Array(ram.buffer, RING * 4096, 16 * ENTRIES));
    queue.enable();
    if (queued) commands.use(queue);
    const ring = new Int32Array(ram.buffer, RING * 4096, 4 * ENTRIES);
    return {
      host,
      commands,
      queue,
      called,
      add: (code: number) => commands.addCommand(code, 0, 0, 0),
      inRing: (count: number) => Array.from({ length: count }, (_, i) => ring[4 * i]),
      answerWith(result: number) {
        answer = result;
      },
    };
  }

  test('go by calls without a queue', () => {
    const { host, commands, called, add } = machine({ queued: false });
    add(NH_ASID);
    expect([commands.flush(), called]).toEqual([0, [NH_ASID]]);
    host.close();
  });

  test('go into the queue but for what it does not take; all is all of the VMID', () => {
    const { host, commands, queue, called, add, inRing } = machine();
    for (const code of [NH_ASID, CFGI_CD_ALL, NSNH_ALL]) add(code);
    expect([commands.flush(), called, inRing(3), queue.idle]).toEqual([0, [CFGI_CD_ALL], [NH_ASID, NH_ALL, SYNC], true]);
    host.close();
  });

  test('are issued twice where the hardware wants it', () => {
    const { host, commands, add, inRing } = machine({ twice: true });
    add(NH_ASID);
    expect([commands.flush(), inRing(3)]).toEqual([0, [NH_ASID, NH_ASID, SYNC]]);
    host.close();
  });

  test('that are more than the ring holds wait for it', () => {
    const { host, commands, queue, called, add, inRing } = machine();
    for (let i = 0; i < ENTRIES; i++) add(NH_ASID);
    expect(queue.idle).toBe(false);
    add(NH_ALL);
    expect([called, inRing(1)]).toEqual([[], [NH_ALL]]);
    expect([commands.flush(), queue.idle, called]).toEqual([0, true, []]);
    host.close();
  });

  test('of a queue that has stopped go by calls, and so does what follows', () => {
    const { host, commands, queue, called, add } = machine();
    // Not one that a VINTF takes.
    queue.add(NSNH_ALL, 0, 0, 0);
    for (let i = 1; i < ENTRIES; i++) add(NH_ASID);
    add(NH_ALL);
    expect(called).toEqual([NSNH_ALL, ...new Array(ENTRIES - 1).fill(NH_ASID), NH_ALL]);
    expect(commands.flush()).toBe(0);
    add(NH_ALL);
    expect(called.at(-1)).toBe(NH_ALL);
    expect(called).toHaveLength(ENTRIES + 2);
    host.close();
  });

  test('of a queue that stops at the flush go by calls without their CMD_SYNC, whether there was room for that or not', () => {
    for (const added of [1, ENTRIES - 1]) {
      const { host, commands, queue, called, add } = machine();
      queue.add(NSNH_ALL, 0, 0, 0);
      for (let i = 0; i < added; i++) add(NH_ASID);
      expect([commands.flush(), queue.failed]).toEqual([0, true]);
      expect(called).toEqual([NSNH_ALL, ...new Array(added).fill(NH_ASID)]);
      host.close();
    }
  });

  test('issued twice stop being so when the first of a pair finds that the queue has stopped', () => {
    const { host, queue, called, add } = machine({ twice: true });
    queue.add(NSNH_ALL, 0, 0, 0);
    for (let i = 1; i < ENTRIES; i++) queue.add(NH_ASID, 0, 0, 0);
    add(NH_ALL);
    expect(called.filter((code) => code === NH_ALL)).toHaveLength(1);
    host.close();
  });

  test('that the kernel refuses are an error, whatever the queue did', () => {
    const { host, commands, add, answerWith } = machine();
    add(NH_ASID);
    answerWith(-errno.EIO);
    expect(commands.flush()).toBe(-errno.EIO);
    host.close();
  });
});
