import { describe, expect, test } from 'vitest';
import { decodeInfo } from '../../src/host/vfio-type1/info.ts';

/** struct vfio_iommu_type1_info and its chain (include/uapi/linux/vfio.h), as kernels older and newer than those of the tests may answer it. */
describe('decodeInfo', () => {
  const PGSIZES = 1;
  const CAPS = 2;

  /** The struct with capabilities at 24, one behind the other: ID and words of 32 bits. */
  function info(flags: number, ...caps: readonly (readonly [id: number, ...words: number[]])[]): DataView {
    const view = new DataView(new ArrayBuffer(256));
    view.setUint32(4, flags, true);
    view.setBigUint64(8, 0x20_1000n, true);
    view.setUint32(16, 24, true);
    let at = 24;
    for (const [index, [id, ...words]] of caps.entries()) {
      view.setUint16(at, id, true);
      for (const [i, word] of words.entries()) view.setUint32(at + 8 + 4 * i, word, true);
      const next = at + 8 + 4 * words.length;
      view.setUint32(at + 4, index === caps.length - 1 ? 0 : next, true);
      at = next;
    }
    return view;
  }

  const NONE = { ranges: [], mappingsLeft: Number.POSITIVE_INFINITY, dirty: null };

  test('a kernel that says nothing of page sizes has pages, and one without capabilities no chain, whatever the offset', () => {
    expect(decodeInfo(info(0, [3, 7]))).toEqual({ pageSizes: 0x1000n, ...NONE });
    expect(decodeInfo(info(PGSIZES, [3, 7]))).toEqual({ pageSizes: 0x20_1000n, ...NONE });
  });

  test('a capability that is not known is passed over', () => {
    expect(decodeInfo(info(PGSIZES | CAPS, [99, 1, 2], [3, 7]))).toEqual({ pageSizes: 0x20_1000n, ...NONE, mappingsLeft: 7 });
  });

  test('a range is that of its whole pages', () => {
    const cap: [number, ...number[]] = [1, 1, 0, 0x1800, 0, 0x4fff, 0];
    expect(decodeInfo(info(CAPS, cap)).ranges).toEqual([{ first: 2, last: 4 }]);
  });

  test('a chain that leads to itself ends', () => {
    const view = info(CAPS, [3, 7]);
    view.setUint32(28, 24, true);
    expect(decodeInfo(view).mappingsLeft).toBe(7);
  });
});
