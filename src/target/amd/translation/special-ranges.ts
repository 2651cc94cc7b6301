import { EXECUTE, READ } from '../../../memory/access.ts';
import { get } from '../../fields.ts';
import type { PfnRange } from '../../target.ts';
import { DTE, IO_CONTROL, SYS_MGT } from '../spec/dte.ts';
import { REQUEST_TYPE } from '../spec/events.ts';

/*
 * Addresses that are no memory to requests without PASID (2.1.2): where messages of interrupts are written to, and of what HyperTransport has at
 * the end of the first TiB, system management messages and port I/O.
 */

const INTERRUPTS: PfnRange = { first: 0xfee00, last: 0xfeeff };
const SYSTEM_MANAGEMENT: PfnRange = { first: 0xfdf9100, last: 0xfdf91ff };
const PORT_IO: PfnRange = { first: 0xfdfc000, last: 0xfdfdfff };

/** What a request is, where it is not refused: one of memory after all, or one that goes on untranslated. */
export const MEMORY = -1;
export const FORWARDED = -2;

/** MEMORY, FORWARDED, or the type of the INVALID_DEVICE_REQUEST (REQUEST_TYPE). `translates`: the entry has TV. */
export function specialRequest(words: Int32Array, translates: boolean, pfn: number, access: number): number {
  const reads = (access & (READ | EXECUTE)) !== 0;
  if (isIn(INTERRUPTS, pfn)) return reads ? REQUEST_TYPE.interruptRead : FORWARDED;
  if (isIn(SYSTEM_MANAGEMENT, pfn)) {
    const control = get(words, DTE.SYS_MGT);
    if (control === SYS_MGT.translated) return translates ? MEMORY : REQUEST_TYPE.untranslatable;
    if (reads) return REQUEST_TYPE.systemManagementRead;
    // INTx messages are the machine's, and do not come as writes.
    return control === SYS_MGT.forwarded ? FORWARDED : REQUEST_TYPE.systemManagementWrite;
  }
  if (isIn(PORT_IO, pfn)) {
    const control = get(words, DTE.IO_CONTROL);
    if (control === IO_CONTROL.translated) return translates ? MEMORY : REQUEST_TYPE.untranslatable;
    return control === IO_CONTROL.forwarded ? FORWARDED : REQUEST_TYPE.portIo;
  }
  return MEMORY;
}

/** Where the entry's device has no memory: spaces leave it out. */
export function withoutMemory(words: Int32Array): PfnRange[] {
  const management = get(words, DTE.SYS_MGT) === SYS_MGT.translated ? [] : [SYSTEM_MANAGEMENT];
  const ports = get(words, DTE.IO_CONTROL) === IO_CONTROL.translated ? [] : [PORT_IO];
  return [INTERRUPTS, ...management, ...ports];
}

function isIn({ first, last }: PfnRange, pfn: number): boolean {
  return pfn >= first && pfn <= last;
}
