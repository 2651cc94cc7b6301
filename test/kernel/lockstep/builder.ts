import type { Random } from '../../peers/random.ts';
import type { Outcome, Poke, Program, Step } from './program.ts';
import type { SimProcess } from './sim-process.ts';

/** Bytes of the struct that an ioctl is called with, at the most. */
const STRUCT_BYTES = 96;
/** Nothing of a process lies there. */
const FREE = 0x7e00_0000_0000;

type Field = number | bigint;

/** 32-bit fields as numbers, 64-bit ones as bigints, each at its natural alignment. */
function layout(...fields: readonly Field[]): Uint8Array {
  const bytes = Buffer.alloc(STRUCT_BYTES);
  let at = 0;
  for (const field of fields) {
    if (typeof field === 'bigint') {
      at = Math.ceil(at / 8) * 8;
      bytes.writeBigUInt64LE(BigInt.asUintN(64, field), at);
      at += 8;
    } else {
      bytes.writeUInt32LE(field >>> 0, at);
      at += 4;
    }
  }
  return bytes.subarray(0, at);
}

/** A kind of call: how often it is wanted, and what it wants to be there. */
export type Kind = readonly [weight: number, step: (builder: Builder, fd: number) => void, ...needs: readonly Known['kind'][]];

/** What an object of iommufd is to a program. */
export interface Known {
  readonly id: number;
  readonly kind: 'ioas' | 'device' | 'mock' | 'paging' | 'nesting' | 'nested' | 'viommu' | 'vdevice' | 'fault' | 'veventq' | 'queue';
}

/**
 * Makes a program call by call: each is played on the simulated kernel at once, and what it answers is what later calls can name. Arguments are mostly
 * good, and sometimes not.
 */
export class Builder {
  readonly random: Random;
  readonly process: SimProcess;
  /** What is played now, the child does. */
  byChild = false;
  readonly steps: Step[] = [];
  readonly outcomes: Outcome[] = [];
  readonly objects: Known[] = [];
  /** What was mapped: where, of what, in which space. */
  readonly mapped: { readonly ioas: number; readonly iova: bigint; readonly length: bigint; readonly memory: bigint }[] = [];

  constructor(random: Random, process: SimProcess) {
    this.random = random;
    this.process = process;
  }

  get program(): Program {
    return this.steps;
  }

  /** Where structs lie. */
  get control(): bigint {
    return this.process.areas[0].address;
  }

  /** Memory to be mapped. */
  get data(): { readonly address: bigint; readonly bytes: number } {
    return this.process.areas[1];
  }

  play(step: Partial<Step> & Pick<Step, 'operation' | 'name'>): Outcome {
    const whole: Step = { fd: -1, request: 0, address: 0n, bytes: 0, pokes: [], byChild: this.byChild, ...step };
    const outcome = this.process.play(whole);
    this.steps.push(whole);
    this.outcomes.push(outcome);
    return outcome;
  }

  /** Maps a page of a file, in the process that forks. Returns where it lies, or 0. */
  mmap(fd: number, bytes: number, offset: bigint): number {
    const { outcome, address } = this.process.map(fd, bytes, offset);
    this.steps.push({ operation: 'mmap', name: 'mmap', fd, request: address || FREE, address: offset, bytes, pokes: [], byChild: false });
    this.outcomes.push(outcome);
    return address;
  }

  /** An ioctl with a struct that opens with its size. Returns the outcome, and the struct as it was left. */
  ioctl(
    name: string,
    fd: number,
    request: number,
    fields: readonly Field[],
    more: readonly Poke[] = [],
  ): { result: number; words: Uint32Array } {
    const { random } = this;
    let bytes = Buffer.from(layout(0, ...fields));
    let size = bytes.length;
    if (random.chance(2)) size += random.pick([-8, -4, 4, 8, 8]);
    // More than the kernel knows, which must be zero, or nothing.
    if (size > bytes.length) bytes = Buffer.concat([bytes, Buffer.alloc(size - bytes.length, random.chance(50) ? 0 : 1)]);
    bytes.writeUInt32LE(size, 0);
    const address = random.chance(2) ? this.badAddress(size) : random.chance(3) ? this.process.areas[2].address : this.control;
    const pokes = [...more, { address: this.control, bytes }];
    // It can be read there, and not answered.
    if (address === this.process.areas[2].address) pokes.push({ address, bytes });
    const { result } = this.play({ operation: 'ioctl', name, fd, request, address, pokes });
    const after = this.process.read(this.control, STRUCT_BYTES, this.byChild);
    return { result, words: new Uint32Array(after.buffer, after.byteOffset, STRUCT_BYTES / 4) };
  }

  /** An address where a struct of that size cannot be, or not be written. */
  badAddress(size: number): bigint {
    const { areas } = this.process;
    const end = areas[0].address + BigInt(areas[0].bytes);
    return this.random.pick([0n, end, end - BigInt(size) + 4n, areas[2].address]);
  }

  /** A known object's ID of one of the kinds; sometimes of another kind, or of nothing. */
  id(...kinds: readonly Known['kind'][]): number {
    const { random, objects } = this;
    const good = objects.filter(({ kind }) => kinds.includes(kind));
    if (random.chance(4) || good.length === 0) return objects.length > 0 && random.chance(60) ? random.pick(objects).id : random.below(40);
    return random.pick(good).id;
  }

  has(...kinds: readonly Known['kind'][]): boolean {
    return this.objects.some(({ kind }) => kinds.includes(kind));
  }

  know(kind: Known['kind'], id: number): void {
    this.objects.push({ kind, id });
  }

  forget(id: number): void {
    const index = this.objects.findIndex((object) => object.id === id);
    if (index >= 0) this.objects.splice(index, 1);
  }

  /** Flags that are set each by chance, and sometimes one that there is not. */
  flags(known: number, percent = 30): number {
    let flags = 0;
    for (let bit = 0; bit < 32; bit++) if ((known >>> bit) & 1 && this.random.chance(percent)) flags |= 1 << bit;
    return (this.random.chance(2) ? flags | (1 << this.random.below(31)) : flags) >>> 0;
  }
}
