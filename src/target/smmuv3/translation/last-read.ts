import { CountedMemory } from '../../../pagetable/two-stage.ts';

/** Remembers what was loaded last. */
export class LastRead extends CountedMemory {
  address = 0;

  override load64(hi: number, lo: number): number {
    this.address = (hi >>> 0) * 2 ** 32 + (lo >>> 0);
    return super.load64(hi, lo);
  }
  override load64BE(hi: number, lo: number): number {
    this.address = (hi >>> 0) * 2 ** 32 + (lo >>> 0);
    return super.load64BE(hi, lo);
  }
}
