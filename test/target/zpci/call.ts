import { expect } from 'vitest';
import { CC, INTERRUPTION, type PciSpaces } from '../../../src/target/zpci/index.ts';
import { FIRST, Guest, GuestTables, handleOf, PAGES } from './guest.ts';

const IOVA = BigInt(FIRST) << 12n;
const INTERRUPTIONS = new Map<number, string>(Object.entries(INTERRUPTION).map(([name, code]) => [code, name]));

/** What a guest puts into registers, FIB and CLP block. */
interface Operands {
  handle: number;
  /** R2 is an odd register. */
  isOdd: boolean;
  operation: number;
  dmaSpace: number;
  /** Loads and stores: PCI address space and bytes. */
  space: number;
  bytes: number;
  offset: bigint;
  /** Of the FIB, or of what is stored. */
  isUnaligned: boolean;
  isOutside: boolean;
  iova: bigint;
  /** The host has no room for what comes next. */
  isFull: boolean;
  command: number;
  requestBytes: number;
  responseBytes: number;
  blockBytes: number;
  /** Of the FIB, by offset. */
  fib: Readonly<Record<number, bigint>>;
  /** Of the CLP request behind its header, by index. */
  words: Readonly<Record<number, number>>;
}

/** Operands that are other ones, or what was done before. */
export type Change = Partial<Operands> | ((call: Call) => void);

/** An instruction that a guest is about to execute, for function 1. */
export class Call {
  readonly guest: Guest;
  readonly tables: GuestTables;
  readonly #operands: Operands;
  #isRefusing = false;

  constructor() {
    const takes = (_: number, offset: bigint) => offset < 0x1000n;
    const spaces: PciSpaces = { load: (_, offset) => (offset < 0x1000n ? 7n : null), store: takes, takes };
    const aperture = { start: IOVA, last: 2n ** 63n - 1n };
    this.guest = new Guest({ functions: [1, 2].map((fid) => ({ fid, aperture, spaces })) });
    this.tables = new GuestTables(this.guest.memory, 0x10000n, 'regionThird');
    this.tables.map(FIRST, 0x80, 4);
    this.guest.start();
    const answer = () => (this.#isRefusing ? -28 : 0);
    this.guest.iommu.observe({ attach: (_, space) => (space?.apertures.length ? answer() : 0), changed: () => {}, flush: answer });
    this.#operands = {
      ...{ handle: handleOf(1), isOdd: false, operation: 0, dmaSpace: 0, space: 0, bytes: 16, offset: 0n, iova: IOVA },
      ...{ isUnaligned: false, isOutside: false, isFull: false, command: 0, requestBytes: 32, responseBytes: 0xc0, blockBytes: 8192 },
      fib: { 16: IOVA, 24: (BigInt(FIRST + PAGES) << 12n) - 1n, 32: this.tables.iota, 40: 1n << 48n, 48: 0x3000n, 56: 0x3100n },
      words: {},
    };
  }

  change(change: Change): void {
    if (typeof change === 'function') change(this);
    else {
      const fib = { ...this.#operands.fib, ...change.fib };
      const words = { ...this.#operands.words, ...change.words };
      Object.assign(this.#operands, change, { fib, words });
    }
  }

  register(): void {
    expect(this.guest.register(1, this.tables.iota)).toEqual([0, 0]);
  }
  registerInterrupts(): void {
    expect(this.guest.modify(1, 2, { 40: 1n << 48n, 48: 0x3000n, 56: 0x3100n })).toEqual([0, 0]);
  }
  fail(): void {
    this.guest.iommu.fail(1, 0x3a, 0n);
  }
  enable(): void {
    this.guest.set(0x2_0000, 0);
    this.change({ words: { 3: 0x8002_0000 } });
  }
  disable(): void {
    this.guest.set(handleOf(1), 1);
    this.change({ words: { 3: 0x2_0000 } });
  }

  /** 'done', the program interruption, the condition code, or the status; error events behind it. */
  #answer(execute: () => number): string {
    const before = this.guest.events.length;
    this.#isRefusing = this.#operands.isFull;
    const answer = execute();
    if (answer < 0) return INTERRUPTIONS.get(answer)!;
    if (answer !== CC.error) return answer === CC.done ? 'done' : `cc ${answer}`;
    const status = this.guest.status(1);
    const events = this.guest.events.slice(before).map(({ code }) => `event 0x${code.toString(16)}`);
    return [status === 0 ? 'cc 1' : `status ${status}`, ...events].join(', ');
  }

  /** The same, and the response code if it is not that of success. */
  clp(): string {
    const { blockBytes, requestBytes, responseBytes, command, words } = this.#operands;
    const block = new Uint8Array(blockBytes);
    const view = new DataView(block.buffer);
    view.setUint16(0, requestBytes);
    view.setUint16(2, command);
    for (const [i, word] of Object.entries(words)) view.setUint32(4 + 4 * Number(i), word);
    if (requestBytes + 4 <= blockBytes) view.setUint16(requestBytes, responseBytes);
    const answer = this.#answer(() => this.guest.iommu.clp(block));
    if (answer in INTERRUPTION) return answer;
    const code = view.getUint16(requestBytes + 2);
    return [...(answer === 'done' && code !== 0x10 ? [] : [answer]), ...(code === 0x10 ? [] : [`0x${code.toString(16)}`])].join(', ');
  }

  #aim(register: number, low: number): void {
    this.guest.registers.u64[register] = (BigInt(this.#operands.handle) << 32n) | BigInt(low);
  }
  get #address(): bigint {
    const { isUnaligned, isOutside } = this.#operands;
    return 0x1000n + (isUnaligned ? 4n : 0n) + (isOutside ? 2n ** 40n : 0n);
  }
  mpcifc(): string {
    const { fib, dmaSpace, operation } = this.#operands;
    for (const [at, value] of Object.entries(fib)) this.guest.store(0x1000n + BigInt(at), value);
    this.#aim(1, (dmaSpace << 16) | operation);
    return this.#answer(() => this.guest.iommu.mpcifc(this.guest.registers, 1, this.#address));
  }
  stpcifc(): string {
    this.#aim(1, this.#operands.dmaSpace << 16);
    return this.#answer(() => this.guest.iommu.stpcifc(this.guest.registers, 1, this.#address));
  }
  rpcit(): string {
    this.#aim(1, 0);
    this.guest.registers.u64.set([this.#operands.iova, 0x1000n], 2);
    return this.#answer(() => this.guest.iommu.rpcit(this.guest.registers, 1, this.#operands.isOdd ? 3 : 2));
  }
  access(how: 'pcilg' | 'pcistg'): string {
    const { space, bytes, offset, isOdd } = this.#operands;
    const { iommu, registers } = this.guest;
    this.#aim(2, (space << 16) | bytes);
    registers.u64[3] = offset;
    return this.#answer(() => {
      const answer = iommu[how](registers, 5, isOdd ? 3 : 2);
      // The status is where the handle is.
      registers.u64[1] = registers.u64[2];
      return answer;
    });
  }
  pcistb(): string {
    const { space, bytes, offset } = this.#operands;
    this.#aim(1, (space << 16) | bytes);
    this.guest.registers.u64[3] = offset;
    return this.#answer(() => this.guest.iommu.pcistb(this.guest.registers, 1, 3, this.#address));
  }
}
