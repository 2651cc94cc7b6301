import { require64, requireNumbers, requireObject } from '../../memory/arguments.ts';
/** An error event of a function (QEMU: s390_pci_generate_error_event; Linux: zpci_event_error). */
export interface ErrorEvent {
  /** One of PEC (spec/codes.ts). */
  readonly code: number;
  readonly handle: number;
  readonly fid: number;
  /** The address that the function, or the instruction, meant. */
  readonly address: bigint;
}

const CCDF_BYTES = 32;

/**
 * The event's content-code dependent field, as CHSC's store event information hands it to the guest with content code 1 (QEMU: struct
 * PciCcdfErr; Linux: struct zpci_ccdf_err): 32 bytes, big-endian.
 */
export function ccdfOf(event: ErrorEvent): Uint8Array {
  requireObject('ccdfOf', 'event', event);
  const { code, handle, fid, address } = event;
  requireNumbers('ccdfOf', { code, handle, fid });
  require64('ccdfOf', 'address', address);
  const bytes = new Uint8Array(CCDF_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(4, handle);
  view.setUint32(8, fid);
  view.setBigUint64(16, address);
  view.setUint16(30, code);
  return bytes;
}
