import { joinHiLo } from '../../../memory/address.ts';
import type { AddressSpace, Target } from '../../../target/target.ts';
import type { RegisterBlock } from '../../../vmm/pci/index.ts';
import { dmaLine, hex, type RecordingStream, ramLine, writeLine } from '../../../vmm/recording-lines.ts';
import { RAM_BYTES } from '../recipe.ts';
import { RecordingMemory, type Words } from './recording-memory.ts';
import type { Deliver, Witness } from './witness.ts';

/** Slices in which a space is looked at after a change: more than a guest's invalidation can need. */
const SLICES = 1000;

const list = (words: Words) => words.map(hex);

/**
 * Writes down what a guest does to a unit, in the order in which it happens: register accesses, DMAs, messages; with each what the unit read
 * of guest memory for it, what it wrote there, and what interrupts of its own it sent. `viommu replay` does the same again and compares.
 */
export class Recorder implements Witness {
  readonly memory = new RecordingMemory();
  readonly #stream: RecordingStream;
  #sent: Words = [];

  constructor(stream: RecordingStream) {
    this.#stream = stream;
  }

  /** The first line. */
  machine(target: string, ramAt: bigint, endpoints: readonly number[], options: Readonly<Record<string, number | string>>): void {
    writeLine(this.#stream, { op: 'machine', target, ram: ramLine([{ gpa: ramAt, bytes: RAM_BYTES }]), endpoints, options });
  }

  /** The unit's own interrupts. */
  sending(deliver: Deliver): Deliver {
    return (address, data) => {
      this.#sent.push(address, BigInt(data));
      deliver(address, data);
    };
  }

  /** Does one operation and writes it down, behind what was read for it. */
  #perform<T>(act: () => T, line: (answer: T) => object): T {
    const answer = act();
    const read = this.memory.takeRead();
    if (read.length > 0) writeLine(this.#stream, { op: 'memory', words: list(read) });
    const stored = this.memory.takeStored();
    const sent = this.#sent.splice(0);
    writeLine(this.#stream, {
      ...line(answer),
      ...(stored.length > 0 && { stored: list(stored) }),
      ...(sent.length > 0 && { sent: list(sent) }),
    });
    return answer;
  }

  registers(block: RegisterBlock): RegisterBlock {
    return {
      read: (offset, bytes) =>
        this.#perform(
          () => block.read(offset, bytes),
          (value) => ({ op: 'read', offset, bytes, value: hex(value) }),
        ),
      write: (offset, bytes, value) =>
        this.#perform(
          () => block.write(offset, bytes, value),
          () => ({ op: 'write', offset, bytes, value: hex(value) }),
        ),
    };
  }

  reset(reset: () => void): void {
    this.#perform(reset, () => ({ op: 'reset' }));
  }

  /** A message of a device's, and what became of it. */
  message(source: number, address: bigint, data: number, deliver: Deliver, remap: (deliver: Deliver) => boolean): boolean {
    const delivered: Words = [];
    return this.#perform(
      () =>
        remap((to, what) => {
          delivered.push(to, BigInt(what));
          deliver(to, what);
        }),
      (taken) => ({ op: 'message', source, address: hex(address), data, taken, delivered: list(delivered) }),
    );
  }

  /** The target, whose translations are written down; and so is what a shadow of its spaces would read of the guest's tables, and when. */
  target(target: Target): Target {
    const changed: [AddressSpace, number, number][] = [];
    target.observe({
      attach: (_endpoint, space) => {
        for (const { first, last } of space?.apertures ?? []) look(space!, first, last);
        return 0;
      },
      changed: (space, first, last) => changed.push([space, first, last]),
      flush: () => {
        for (const [space, first, last] of changed.splice(0)) look(space, first, last);
        return 0;
      },
    });
    return new Proxy(target, {
      get: (of, name) => {
        if (name === 'translate') return this.#translate(of);
        const value = Reflect.get(of, name, of);
        return typeof value === 'function' ? value.bind(of) : value;
      },
    });
  }

  #translate(target: Target): Target['translate'] {
    return (endpoint, pasid, hi, lo, access) => {
      const iova = joinHiLo(hi, lo);
      return this.#perform(
        () => target.translate(endpoint, pasid, hi, lo, access),
        (answer) => {
          if (answer < 0) return dmaLine(endpoint, pasid, iova, access, answer);
          const [addressLo, addressHi] = target.translated as unknown as [number, number];
          this.memory.forget(addressHi, addressLo);
          return dmaLine(endpoint, pasid, iova, access, joinHiLo(addressHi, addressLo));
        },
      );
    };
  }
}

function look(space: AddressSpace, first: number, last: number): void {
  let from = first;
  for (let slice = 0; slice < SLICES && from <= last; slice++) from = space.enumerate(from, last, () => true);
}
