import type { Endpoint } from './endpoint.ts';
import { PROBE_T_RESV_MEM, RESV_MEM_BYTES, RESV_MEM_T_MSI, RESV_MEM_T_RESERVED } from './protocol.ts';

/** The properties of an endpoint (5.13.6.8), in a list of `bytes` bytes, the rest zero: one RESV_MEM each reserved region. */
export function probeProperties(endpoint: Endpoint, bytes: number): Uint8Array {
  const list = new Uint8Array(bytes);
  const view = new DataView(list.buffer);
  endpoint.regions.forEach(({ kind, start, last }, i) => {
    const at = i * RESV_MEM_BYTES;
    view.setUint16(at, PROBE_T_RESV_MEM, true);
    view.setUint16(at + 2, RESV_MEM_BYTES - 4, true);
    view.setUint8(at + 4, kind === 'msi' ? RESV_MEM_T_MSI : RESV_MEM_T_RESERVED);
    view.setBigUint64(at + 8, start, true);
    view.setBigUint64(at + 16, last, true);
  });
  return list;
}
