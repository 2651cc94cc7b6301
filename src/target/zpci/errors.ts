import { STATE, type ZpciFunction } from './function.ts';
import type { Functions } from './functions.ts';
import type { ZpciIommuOptions } from './options.ts';

/** How a guest is told that something of a function failed. */
export class Errors {
  readonly #functions: Functions;
  readonly #deliver: NonNullable<ZpciIommuOptions['errorEvent']> | undefined;

  constructor(functions: Functions, { errorEvent }: ZpciIommuOptions) {
    this.#functions = functions;
    this.#deliver = errorEvent;
  }

  /** An event that leaves the function as it is. */
  report(one: ZpciFunction, code: number, address: bigint): void {
    this.#deliver?.({ code, handle: one.handle, fid: one.fid, address });
  }

  /** The function goes into the error state: it does no DMA until the guest takes that back. */
  fail(one: ZpciFunction, code: number, address: bigint): void {
    this.#functions.enter(one, STATE.error);
    this.report(one, code, address);
  }
}
