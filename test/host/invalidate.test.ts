import { beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdContext } from '../../src/host/iommufd/context.ts';
import { SmmuInvalidations, VtdInvalidations } from '../../src/host/iommufd/invalidate.ts';
import type { Port } from '../../src/host/port.ts';

/* struct iommu_hwpt_invalidate and its entries, as they lie in memory when the kernel is called. */

interface Call {
  readonly target: number;
  readonly type: number;
  readonly entryBytes: number;
  readonly entries: readonly (readonly number[])[];
}

describe('invalidations', () => {
  let calls: Call[];
  /** What the next calls answer, and how many entries they say are done; default: all. */
  let answers: [result: number, done: number][];
  let context: IommufdContext;

  beforeEach(() => {
    calls = [];
    answers = [];
    const memories = new Map<bigint, ArrayBuffer>();
    const port = {
      allocate(bytes: number) {
        const buffer = new ArrayBuffer(bytes);
        const address = BigInt(memories.size + 1) << 16n;
        memories.set(address, buffer);
        return { buffer, address, bytes, release: () => void memories.delete(address) };
      },
      ioctl(_fd: number, _request: number, { buffer }: { buffer: ArrayBuffer }) {
        const view = new DataView(buffer);
        const word = (at: number) => view.getUint32(at, true);
        const [bytes, count] = [word(20), word(24)];
        const entries = new Uint32Array(memories.get(view.getBigUint64(8, true))!);
        calls.push({
          target: word(4),
          type: word(16),
          entryBytes: bytes,
          entries: Array.from({ length: count }, (_, i) => [...entries.subarray((i * bytes) / 4, ((i + 1) * bytes) / 4)]),
        });
        const [result, done] = answers.shift() ?? [0, count];
        view.setUint32(24, done, true);
        return result;
      },
    };
    context = new IommufdContext(port as unknown as Port, 3, { map: 0, unmap: 0, copy: 0, attach: 0, control: 0 });
  });

  test('VT-d: address, pages and flags of each range; nothing of an entry that stood there before', () => {
    const batch = new VtdInvalidations(context, { id: 5 }, 4);
    batch.addPages(0x12345, 2, true);
    batch.addPages(2 ** 40 + 1, 2 ** 33, false);
    expect(batch.flush()).toBe(0);
    batch.addPages(7, 1, false);
    batch.addAll();
    expect(batch.flush()).toBe(0);
    expect(batch.flush()).toBe(0);
    expect(calls).toEqual([
      {
        target: 5,
        type: 0,
        entryBytes: 24,
        entries: [
          [0x1234_5000, 0, 2, 0, 1, 0],
          [0x1000, 2 ** 20, 0, 2, 0, 0],
        ],
      },
      {
        target: 5,
        type: 0,
        entryBytes: 24,
        entries: [
          [0x7000, 0, 1, 0, 0, 0],
          [0, 0, 0xffff_ffff, 0xffff_ffff, 0, 0],
        ],
      },
    ]);
    expect(context.calls.control).toBe(2);
  });

  test('what there is no room for is flushed before, and its answer is that of who needed the room', () => {
    const batch = new VtdInvalidations(context, { id: 5 }, 2);
    answers = [[-errno.EIO, 1]];
    expect([batch.addPages(1, 1, false), batch.addPages(2, 1, false), batch.addPages(3, 1, false)]).toEqual([0, 0, -errno.EIO]);
    expect([batch.done, batch.error?.message]).toEqual([1, 'IOMMU_HWPT_INVALIDATE: EIO (entry 1)']);
    batch.aim({ id: 9 });
    expect(batch.flush()).toBe(0);
    expect(calls.map(({ target, entries }) => [target, entries.length])).toEqual([
      [5, 2],
      [9, 1],
    ]);
  });

  test('SMMUv3: what the kernel counted before the one that it refused is given once more, and the count stays the first’s', () => {
    const batch = new SmmuInvalidations(context, { id: 5 });
    for (let i = 1; i <= 3; i++) batch.addCommand(0x12, i, 0, 0);
    answers = [[-errno.EIO, 2]];
    expect(batch.flush()).toBe(-errno.EIO);
    expect([calls.map(({ entries }) => entries.map(([, second]) => second)), batch.done]).toEqual([
      [
        [1, 2, 3],
        [1, 2],
      ],
      2,
    ]);
    batch.addCommand(0x12, 4, 0, 0);
    answers = [[-errno.EIO, 0]];
    expect(batch.flush()).toBe(-errno.EIO);
    expect(calls.length, 'nothing was done before it').toBe(3);
    batch.addCommand(0x12, 5, 0, 0);
    expect([batch.flush(), calls.length]).toEqual([0, 4]);
  });

  test('disposed, it is not the host’s to free any more', () => {
    const batch = new VtdInvalidations(context, { id: 5 });
    expect(context.owned.size).toBe(1);
    batch.dispose();
    expect(context.owned.size).toBe(0);
  });
});
