import { hiOf, loOf } from '../../memory/address.ts';
import { put } from '../fields.ts';
import type { ReservedRegion } from './reserved-regions.ts';
import {
  PROBE_T_RESV_MEM,
  PROPERTY_HEADER_BYTES,
  RESV_MEM,
  RESV_MEM_BYTES,
  RESV_MEM_T_MSI,
  RESV_MEM_T_RESERVED,
} from './spec/properties.ts';

/** The properties of an endpoint (5.13.6.8), in a list of `bytes` bytes, the rest zero: one RESV_MEM each reserved region. */
export function probeProperties(regions: readonly ReservedRegion[], bytes: number): Uint8Array {
  const list = new Uint8Array(bytes);
  const words = new Int32Array(RESV_MEM_BYTES / 4);
  regions.forEach(({ kind, start, last }, i) => {
    put(words, RESV_MEM.TYPE, PROBE_T_RESV_MEM);
    put(words, RESV_MEM.LENGTH, RESV_MEM_BYTES - PROPERTY_HEADER_BYTES);
    put(words, RESV_MEM.SUBTYPE, kind === 'msi' ? RESV_MEM_T_MSI : RESV_MEM_T_RESERVED);
    put(words, RESV_MEM.START_LO, loOf(start));
    put(words, RESV_MEM.START_HI, hiOf(start));
    put(words, RESV_MEM.END_LO, loOf(last));
    put(words, RESV_MEM.END_HI, hiOf(last));
    list.set(new Uint8Array(words.buffer), i * RESV_MEM_BYTES);
  });
  return list;
}
