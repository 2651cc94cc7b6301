import { STATE, type ZpciFunction } from './function.ts';
import type { Functions } from './functions.ts';
import { DEFAULT_MSI_ADDRESS, type ZpciIommuOptions } from './options.ts';
import {
  CLP_COMMAND,
  CLP_HEADER,
  CLP_RESPONSE,
  FUNCTION_REQUEST,
  GROUP_FLAGS,
  GROUP_REQUEST,
  GROUP_RESPONSE,
  GROUP_RESPONSE_BYTES,
  LIST_ENTRY,
  LIST_ENTRY_BYTES,
  LIST_REQUEST,
  LIST_RESPONSE,
  QUERY_RESPONSE,
  QUERY_RESPONSE_BYTES,
  REQUEST_BYTES,
  SET_OPERATION,
  SET_RESPONSE,
} from './spec/clp.ts';
import { type Answer, CC, INTERRUPTION } from './spec/codes.ts';
import { STORE_BLOCK_BYTES } from './spec/instruction.ts';

/** Request and response together. */
const BLOCK_BYTES = 8192;
const DEFAULT_GROUP = 0xff;
/** As QEMU's functions have it. */
const MEASUREMENT_MS = 4000;
const MAX_FUNCTIONS = 4096;
/** FH_MASK_SHM of QEMU: handles are the machine's own. */
const MODEL_DEPENDENT = 0x00ff_0000;

/** CLP, call logical processor, for PCI (QEMU: clp_service_call; Linux: arch/s390/pci/pci_clp.c). */
export class LogicalProcessor {
  readonly #functions: Functions;
  readonly #options: ZpciIommuOptions;

  constructor(functions: Functions, options: ZpciIommuOptions) {
    this.#functions = functions;
    this.#options = options;
  }

  /** `block`: a copy of the request and the response behind it, of 8 KiB at most; the response is written into it. */
  call(block: Uint8Array): Answer {
    if (block.length < 4) return INTERRUPTION.operand;
    const view = new DataView(block.buffer, block.byteOffset, block.length);
    const requestBytes = view.getUint16(CLP_HEADER.LENGTH);
    if (requestBytes < 16 || requestBytes > 8184 || requestBytes % 8 !== 0) return INTERRUPTION.operand;
    if (requestBytes + 4 > block.length) return INTERRUPTION.addressing;
    const responseBytes = view.getUint16(requestBytes + CLP_HEADER.LENGTH);
    if (responseBytes < 8 || responseBytes > 8176 || responseBytes % 8 !== 0) return INTERRUPTION.operand;
    if (requestBytes + responseBytes > BLOCK_BYTES) return INTERRUPTION.operand;
    if (requestBytes + responseBytes > block.length) return INTERRUPTION.addressing;
    const request = new DataView(block.buffer, block.byteOffset, requestBytes);
    const response = new DataView(block.buffer, block.byteOffset + requestBytes, responseBytes);
    const code = this.#dispatch(request, response);
    response.setUint16(CLP_HEADER.CODE, code);
    return request.getUint16(CLP_HEADER.CODE) === CLP_COMMAND.listPci && code === CLP_RESPONSE.length && requestBytes === REQUEST_BYTES
      ? CC.handle
      : CC.done;
  }

  #dispatch(request: DataView, response: DataView): number {
    if (request.byteLength !== REQUEST_BYTES) return CLP_RESPONSE.length;
    switch (request.getUint16(CLP_HEADER.CODE)) {
      case CLP_COMMAND.listPci:
        return this.#list(request, response);
      case CLP_COMMAND.queryFunction:
        return this.#query(request, response);
      case CLP_COMMAND.queryGroup:
        return this.#group(request, response);
      case CLP_COMMAND.setFunction:
        return this.#set(request, response);
      default:
        return CLP_RESPONSE.command;
    }
  }

  /** As many functions as the response has room for, from the one that the resume token names on. */
  #list(request: DataView, response: DataView): number {
    const format = request.getUint32(CLP_HEADER.FORMAT);
    if (format >>> 28 !== 0) return CLP_RESPONSE.format;
    if (format !== 0 || request.getBigUint64(CLP_HEADER.RESERVED) !== 0n) return CLP_RESPONSE.reserved;
    const token = request.getBigUint64(LIST_REQUEST.RESUME_TOKEN);
    const { all } = this.#functions;
    // A token is one more than the function's place, so that 0 is the start.
    const first = token === 0n ? 0 : token <= BigInt(all.length) ? Number(token) - 1 : -1;
    if (first < 0) return CLP_RESPONSE.resumeToken;
    if (response.byteLength < LIST_RESPONSE.ENTRIES + LIST_ENTRY_BYTES) return CLP_RESPONSE.blockSize;
    if ((response.byteLength - LIST_RESPONSE.ENTRIES) % LIST_ENTRY_BYTES !== 0) return CLP_RESPONSE.length;
    const room = (response.byteLength - LIST_RESPONSE.ENTRIES) / LIST_ENTRY_BYTES;
    const end = Math.min(all.length, first + room);
    response.setUint32(CLP_HEADER.FORMAT, 0);
    response.setBigUint64(CLP_HEADER.RESERVED, 0n);
    response.setBigUint64(LIST_RESPONSE.RESUME_TOKEN, end < all.length ? BigInt(end + 1) : 0n);
    response.setUint32(LIST_RESPONSE.MODEL_DEPENDENT, MODEL_DEPENDENT);
    response.setUint16(LIST_RESPONSE.MAX_FUNCTIONS, MAX_FUNCTIONS);
    response.setUint8(LIST_RESPONSE.FLAGS, 1);
    response.setUint8(LIST_RESPONSE.ENTRY_BYTES, LIST_ENTRY_BYTES);
    for (let i = first; i < end; i++) {
      const one = all[i];
      const at = LIST_RESPONSE.ENTRIES + LIST_ENTRY_BYTES * (i - first);
      response.setUint16(at + LIST_ENTRY.DEVICE, one.options.device ?? 0);
      response.setUint16(at + LIST_ENTRY.VENDOR, one.options.vendor ?? 0);
      response.setUint32(at + LIST_ENTRY.CONFIGURED, one.state === STATE.standby ? 0 : 0x8000_0000);
      response.setUint32(at + LIST_ENTRY.FID, one.fid);
      response.setUint32(at + LIST_ENTRY.HANDLE, one.handle);
    }
    response.setUint16(CLP_HEADER.LENGTH, LIST_RESPONSE.ENTRIES + LIST_ENTRY_BYTES * (end - first));
    return CLP_RESPONSE.ok;
  }

  /** What concerns DMA: BARs and strings are the machine's to add, to the response in the block. */
  #query(request: DataView, response: DataView): number {
    const one = this.#functions.byHandle(request.getUint32(FUNCTION_REQUEST.HANDLE));
    if (one === null) return CLP_RESPONSE.handle;
    if (response.byteLength < QUERY_RESPONSE_BYTES) return CLP_RESPONSE.blockSize;
    response.setUint8(QUERY_RESPONSE.GROUP, one.options.group ?? DEFAULT_GROUP);
    response.setUint32(QUERY_RESPONSE.FID, one.fid);
    response.setBigUint64(QUERY_RESPONSE.SDMA, one.aperture.start);
    response.setBigUint64(QUERY_RESPONSE.EDMA, one.aperture.last);
    response.setUint32(QUERY_RESPONSE.UID, one.options.uid ?? one.fid);
    return CLP_RESPONSE.ok;
  }

  #group(request: DataView, response: DataView): number {
    const group = request.getUint8(GROUP_REQUEST.GROUP);
    if (!this.#functions.all.some(({ options }) => (options.group ?? DEFAULT_GROUP) === group)) return CLP_RESPONSE.group;
    if (response.byteLength < GROUP_RESPONSE_BYTES) return CLP_RESPONSE.blockSize;
    const { interrupts = 128, relaxedTranslation = false, designations = 0xf0, msiAddress = DEFAULT_MSI_ADDRESS } = this.#options;
    response.setUint16(GROUP_RESPONSE.INTERRUPTS, interrupts);
    response.setUint8(GROUP_RESPONSE.FLAGS, GROUP_FLAGS.refresh | GROUP_FLAGS.frames | (relaxedTranslation ? GROUP_FLAGS.relaxed : 0));
    response.setUint16(GROUP_RESPONSE.STORE_BLOCK, STORE_BLOCK_BYTES);
    response.setUint16(GROUP_RESPONSE.MEASUREMENT_INTERVAL, MEASUREMENT_MS);
    response.setUint8(GROUP_RESPONSE.DESIGNATIONS, designations);
    response.setBigUint64(GROUP_RESPONSE.DASM, 0n);
    response.setBigUint64(GROUP_RESPONSE.MSIA, msiAddress);
    return CLP_RESPONSE.ok;
  }

  #set(request: DataView, response: DataView): number {
    const one = this.#functions.byHandle(request.getUint32(FUNCTION_REQUEST.HANDLE));
    if (one === null) return CLP_RESPONSE.handle;
    if (response.byteLength < SET_RESPONSE.HANDLE + 4) return CLP_RESPONSE.blockSize;
    const code = this.#enable(one, request);
    if (code === CLP_RESPONSE.ok) response.setUint32(SET_RESPONSE.HANDLE, one.handle);
    return code;
  }

  #enable(one: ZpciFunction, request: DataView): number {
    const spaces = request.getUint8(FUNCTION_REQUEST.ADDRESS_SPACES);
    switch (request.getUint8(FUNCTION_REQUEST.OPERATION)) {
      case SET_OPERATION.enable:
        if (spaces !== 1) return spaces === 0 ? CLP_RESPONSE.addressSpaces : CLP_RESPONSE.resources;
        if (one.state !== STATE.disabled) return CLP_RESPONSE.handleOperation;
        this.#functions.enter(one, STATE.enabled);
        return CLP_RESPONSE.ok;
      case SET_OPERATION.disable:
        if (!one.isEnabled) return CLP_RESPONSE.handleOperation;
        this.#functions.disable(one);
        return CLP_RESPONSE.ok;
      default:
        return CLP_RESPONSE.handleOperation;
    }
  }
}
