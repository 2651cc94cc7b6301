import { put, putWide } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import { PPR, PPR_CODE } from '../spec/events.ts';
import { CONTROL } from '../spec/registers.ts';
import type { AmdIommuOptions } from '../surroundings.ts';
import type { RingLog } from './log.ts';

/** A page request of a device (PCI Express Base Specification 6.0, 10.4.1). */
export interface PageRequest {
  readonly device: number;
  /** null: without PASID. */
  readonly pasid: number | null;
  /** Guest-virtual page number. */
  readonly page: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly user: boolean;
  /** PRG index, 9 bits, and whether it is the group's last. */
  readonly group: number;
  readonly last: boolean;
}

/** Response codes of PCIe: what the IOMMU answers itself. */
const INVALID_REQUEST = 1;
const RESPONSE_SHIFT = 12;
const LAST = 0x200;

/** Page requests (2.6). */
export class PageRequests {
  readonly #log: RingLog;
  readonly #registers: Registers;
  readonly #complete: AmdIommuOptions['completePageRequest'];
  readonly #words = new Int32Array(4);

  constructor(log: RingLog, registers: Registers, { completePageRequest }: AmdIommuOptions) {
    this.#log = log;
    this.#registers = registers;
    this.#complete = completePageRequest;
  }

  /** Logs a request; `served`: the device's entry has PPR. What cannot be logged is answered as invalid when its group ends. */
  receive(request: PageRequest, served: boolean): void {
    const words = this.#words.fill(0);
    put(words, PPR.DEVICE, request.device);
    put(words, PPR.TAG, (request.group & 0x1ff) | (request.last ? LAST : 0));
    if (request.pasid !== null) {
      put(words, PPR.PASID_LOW, request.pasid & 0xffff);
      put(words, PPR.PASID_HIGH, request.pasid >>> 16);
      put(words, PPR.GN, 1);
    }
    put(words, PPR.READ, Number(request.read));
    put(words, PPR.WRITE, Number(request.write));
    put(words, PPR.EXECUTE, Number(request.execute));
    put(words, PPR.USER, Number(request.user));
    put(words, PPR.CODE, PPR_CODE);
    putWide(words, PPR.PAGE, request.page);
    if (served && this.#registers.control(CONTROL.PPR_EN) !== 0 && this.#log.append(words)) return;
    // That a PASID has stopped wants no answer (PCIe 10.4.1.2.1).
    const isStopMarker = request.pasid !== null && !request.read && !request.write;
    if (!request.last || isStopMarker) return;
    this.#complete?.({ device: request.device, pasid: request.pasid, tag: (request.group & 0x1ff) | (INVALID_REQUEST << RESPONSE_SHIFT) });
  }
}
