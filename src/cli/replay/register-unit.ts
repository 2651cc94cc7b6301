import { StoreWatch } from '../../accel/store-watch.ts';
import type { TableWatch } from '../../accel/table-watch.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { AmdIommu } from '../../target/amd/index.ts';
import { RiscvIommu } from '../../target/riscv/index.ts';
import { type InterruptSource, Smmuv3 } from '../../target/smmuv3/index.ts';
import type { Target } from '../../target/target.ts';
import { VtdIommu } from '../../target/vtd/index.ts';
import { hex } from '../../vmm/recording-lines.ts';
import { amdMessage, vtdMessage } from '../../vmm/units/index.ts';
import type { RecordedLine } from '../recording.ts';
import { guarded, type RecordedTarget, type RecordedTargetFactory, type ReplayContext, recordedDma } from './replayer.ts';

/** A unit that is driven by registers. */
interface RegisterUnit extends Target {
  read(offset: number, bytes: number): bigint;
  write(offset: number, bytes: number, value: bigint): void;
  addEndpoint(endpoint: number): void;
}

type Send = (address: bigint, data: number) => void;
type Message = (source: number, address: bigint, data: number, deliver: Send) => boolean;

interface MadeUnit {
  readonly unit: RegisterUnit;
  readonly message: Message;
  /** Whether its guest announces what becomes valid, so that hardware can follow. */
  readonly announced: boolean;
}

/** Replays recordings of `viommu boot --record`: the guest's register accesses and DMAs, what the unit read of memory, and all its answers. */
class RecordedRegisterUnit implements RecordedTarget {
  readonly target: RegisterUnit;
  /** QEMU has not run these guests. */
  readonly peerHostCalls = 0;
  /** Hears of what comes into memory; left out: the guest announces what becomes valid. */
  readonly watch?: TableWatch;
  readonly #memory: GuestMemory;
  readonly #message: Message;
  readonly #endpoints: readonly number[];
  readonly #stores: StoreWatch | null;
  readonly #sent: bigint[] = [];

  constructor(machine: RecordedLine, memory: GuestMemory, make: (send: Send) => MadeUnit) {
    const { unit, message, announced } = guarded(machine, () => make((address, data) => this.#sent.push(address, BigInt(data >>> 0))));
    this.target = unit;
    this.#message = message;
    this.#memory = memory;
    const endpoints = machine.u64List('endpoints').map(Number);
    for (const endpoint of endpoints) guarded(machine, () => unit.addEndpoint(endpoint));
    this.#endpoints = endpoints;
    this.#stores = announced ? null : new StoreWatch();
    if (this.#stores !== null) this.watch = this.#stores;
  }

  start(context: ReplayContext): void {
    for (const endpoint of this.#endpoints) context.passThrough(endpoint);
  }

  replay(line: RecordedLine, context: ReplayContext): void {
    switch (line.op) {
      case 'memory':
        this.#put(line);
        return;
      case 'read':
        this.#same(line, context, 'reads', this.target.read(line.integer('offset'), line.integer('bytes')), line.u64('value'));
        break;
      case 'write':
        this.target.write(line.integer('offset'), line.integer('bytes'), line.u64('value'));
        break;
      case 'reset':
        this.target.reset();
        break;
      case 'message':
        this.#deliver(line, context);
        break;
      case 'dma':
        context.dma.check(recordedDma(line));
        break;
      default:
        line.fail('is no operation of a unit with registers');
    }
    this.#compare(line, context);
  }

  /** What the unit is about to read, and so what the guest has stored. */
  #put(line: RecordedLine): void {
    const words = line.u64List('words');
    for (let i = 0; i + 1 < words.length; i += 2) {
      const [at, value] = [words[i]!, words[i + 1]!];
      if (this.#memory.store64(hiOf(at), loOf(at), hiOf(value), loOf(value)) < 0) line.fail(`${hex(at)} is no RAM`);
      this.#stores?.stored(at, 8);
    }
  }

  #deliver(line: RecordedLine, context: ReplayContext): void {
    const found: bigint[] = [];
    this.#message(line.u32('source'), line.u64('address'), line.u32('data'), (address, data) => found.push(address, BigInt(data)));
    this.#list(line, context, 'delivers', found, line.u64List('delivered'));
  }

  /** What the unit wrote to memory, and which interrupts it sent. */
  #compare(line: RecordedLine, context: ReplayContext): void {
    this.#list(line, context, 'sends', this.#sent.splice(0), line.has('sent') ? line.u64List('sent') : []);
    const stored = line.has('stored') ? line.u64List('stored') : [];
    // A word that was written twice is compared with what it was in the end.
    const last = new Map<bigint, bigint>();
    for (let i = 0; i + 1 < stored.length; i += 2) last.set(stored[i]!, stored[i + 1]!);
    for (const [at, value] of last) {
      const found = this.#memory.load64(hiOf(at), loOf(at)) < 0 ? -1n : joinHiLo(this.#memory.word[1]!, this.#memory.word[0]!);
      this.#same(line, context, `writes to ${hex(at)}`, found, value);
    }
  }

  #same(line: RecordedLine, { answers }: ReplayContext, what: string, found: bigint, expected: bigint): void {
    answers.check(found === expected, () => `line ${line.number}: ${line.op} ${what} ${hex(found)}, not ${hex(expected)}`);
  }

  #list(line: RecordedLine, { answers }: ReplayContext, what: string, found: readonly bigint[], expected: readonly bigint[]): void {
    if (found.length === 0 && expected.length === 0) return;
    const same = found.length === expected.length && found.every((value, i) => value === expected[i]);
    answers.check(same, () => `line ${line.number}: ${line.op} ${what} ${found.map(hex).join(' ')}, not ${expected.map(hex).join(' ')}`);
  }
}

export const recordedVtd: RecordedTargetFactory = (machine, memory) =>
  new RecordedRegisterUnit(machine, memory, (send) => {
    const options = machine.object('options');
    const has = (name: string) => options.integer(name) !== 0;
    const iommu = new VtdIommu(
      {
        cachingMode: has('cachingMode'),
        scalableMode: has('scalableMode'),
        interruptRemapping: has('interruptRemapping'),
        extendedInterruptMode: false,
        postedInterrupts: false,
      },
      { memory, sendInterrupt: send },
    );
    const message: Message = (source, address, data, deliver) => vtdMessage(iommu, source, address, data, deliver);
    return { unit: iommu, message, announced: has('cachingMode') };
  });

export const recordedAmd: RecordedTargetFactory = (machine, memory) =>
  new RecordedRegisterUnit(machine, memory, (send) => {
    const options = machine.object('options');
    const npCache = options.integer('npCache') !== 0;
    const without = options.text('without').split(',');
    // Which message is its own is its function's matter; that there is one is what is compared.
    const iommu = new AmdIommu({ memory, npCache, without, interrupt: () => send(0n, 0) });
    const message: Message = (source, address, data, deliver) => amdMessage(iommu, source, address, data, deliver);
    return { unit: iommu, message, announced: npCache };
  });

export const recordedSmmuv3: RecordedTargetFactory = (machine, memory) =>
  new RecordedRegisterUnit(machine, memory, (send) => {
    const options = machine.object('options');
    const features = options.integer('S1P') === 0 ? { features: { S1P: 0 } } : {};
    // The only wire that recorded guests have, or messages in its place.
    const wire = (source: InterruptSource) => {
      if (source === 'event') send(0n, 0);
    };
    const message = (address: bigint, data: number) => {
      send(address, data);
      return true;
    };
    const smmu = new Smmuv3({ memory, ...features, ...(options.has('messages') ? { message } : { interrupt: wire }) });
    return { unit: smmu, message: () => false, announced: false };
  });

export const recordedRiscv: RecordedTargetFactory = (machine, memory) =>
  new RecordedRegisterUnit(machine, memory, (send) => {
    const options = machine.object('options');
    const config = { vectorBits: options.integer('vectorBits'), capabilities: options.u64('capabilities') };
    const storeDevice = (address: bigint, value: number) => {
      send(address, value);
      return true;
    };
    return { unit: new RiscvIommu(config, { memory, storeDevice }), message: () => false, announced: false };
  });
