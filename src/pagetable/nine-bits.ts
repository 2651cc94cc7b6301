/** Tables of 512 entries of 8 bytes, 4 KiB pages: what x86-64, VT-d and AMD have in common. */

/** Byte offset, in a table of `level` (0: leaf), of the entry that translates an address: 9 bits a level from bit 12 on. */
export function offsetIn(level: number, hi: number, lo: number): number {
  switch (level) {
    case 0:
      return (lo >>> 9) & 0xff8;
    case 1:
      return (lo >>> 18) & 0xff8;
    case 2:
      return ((lo >>> 27) | (hi << 5)) & 0xff8;
    case 3:
      return (hi >>> 4) & 0xff8;
    case 4:
      return (hi >>> 13) & 0xff8;
    default:
      return (hi >>> 22) & 0x3f8;
  }
}

/** Entries hold addresses in bits 51:12; the bits of the high half. */
export const ADDRESS_HI = 0xf_ffff;
/** The low bits of a large page's address, by level: reserved where they are not flags. */
export const BELOW_2M = 0x001f_ffff;
export const BELOW_1G = 0x3fff_ffff;
