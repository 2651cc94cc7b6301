import { fc, test as property } from '@fast-check/vitest';
import { expect, test } from 'vitest';
import { addressOfPfn, hiOf, hiOfPfn, joinHiLo, loOf, loOfPfn, PFN_LIMIT, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';

const addresses = fc.oneof(
  fc.bigInt(0n, 2n ** 64n - 1n),
  fc.constantFrom(0n, 0x7fff_ffffn, 0x8000_0000n, 0xffff_ffffn, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n),
);

property.prop([addresses])('an address is its two halves, as int32', (address) => {
  expect(hiOf(address) | 0).toBe(hiOf(address));
  expect(loOf(address) | 0).toBe(loOf(address));
  expect(joinHiLo(hiOf(address), loOf(address))).toBe(address);
});

property.prop([addresses])('a page frame number is address / 4096, exactly', (address) => {
  const pfn = Number(address >> 12n);
  expect(pfnOf(address)).toBe(pfn);
  expect(pfnOfHiLo(hiOf(address), loOf(address))).toBe(pfn);
  expect(addressOfPfn(pfn)).toBe((address >> 12n) << 12n);
  expect(joinHiLo(hiOfPfn(pfn), loOfPfn(pfn))).toBe((address >> 12n) << 12n);
});

test('the last page', () => {
  expect(pfnOf(2n ** 64n - 1n)).toBe(PFN_LIMIT - 1);
  expect(addressOfPfn(PFN_LIMIT - 1)).toBe(0xffff_ffff_ffff_f000n);
});
