import { pfnOf } from '../memory/address.ts';
import { requireObject } from '../memory/arguments.ts';
import { MEM_FAULT } from '../memory/guest-memory.ts';
import type { GuestRegion } from '../memory/guest-region.ts';
import { type AddressSpace, NO_PASID } from '../target/target.ts';
import { Machine } from './machine.ts';
import type { DeviceAccess, DeviceFault, GuestOperation, PathChange } from './observation.ts';
import { dmaLine, pasidField, type RecordingStream, ramLine, writeLine } from './recording-lines.ts';

/** Runs in one line. */
const LINE_RUNS = 1024;

/**
 * Writes down what a machine's guest means from now on, and what its emulated devices do, for `viommu replay`: on any host and path, with every
 * access compared. The target's own commands are not in it, so it is the same for every target; what is there already is written first.
 * A machine without a host records no results of the host's, and so none is compared. The disposer ends it; the stream is the embedder's to end.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const target = new VirtioIommu({ memory });
 * target.addEndpoint(8);
 * const machine = new Machine({ memory, target });
 * const lines = [];
 * const dispose = recordTo(machine, { write: (text) => lines.push(text) });
 * machine.emulate(8).read(0x5000n, new Uint8Array(4));
 * dispose();
 * lines.at(-1); // '{"op":"dma","endpoint":8,"iova":"0x5000","access":1,"addr":"0x5000"}\n'
 *
 * @throws TypeError for no machine, a closed one, or a stream without `write`
 */
export function recordTo(machine: Machine, stream: RecordingStream): () => void {
  if (!(machine instanceof Machine)) throw new TypeError('recordTo: machine is no Machine');
  requireObject('recordTo', 'stream', stream, 'stream', ['write']);
  const recorder = new MachineRecorder(machine, stream);
  const dispose = machine.observe({
    guestOperation: (operation) => recorder.operation(operation),
    access: (access) => recorder.access(access),
    fault: (fault) => recorder.fault(fault),
    pathChange: (change) => recorder.pathChange(change),
    memoryChange: (regions) => recorder.memoryChange(regions),
  });
  recorder.start();
  return dispose;
}

/** What the recording says of a space so far. */
interface Written {
  readonly id: number;
  readonly description: string;
}

class MachineRecorder {
  readonly #machine: Machine;
  readonly #stream: RecordingStream;
  /** The host's answers are the guest's to see. */
  readonly #hasHost: boolean;
  readonly #written = new WeakMap<AddressSpace, Written>();
  /** What each endpoint, or one PASID of it, reaches in the recording. */
  readonly #reached = new Map<number, Map<number, AddressSpace | null>>();
  #spaces = 0;

  constructor(machine: Machine, stream: RecordingStream) {
    this.#machine = machine;
    this.#stream = stream;
    this.#hasHost = machine.state.host !== null;
  }

  start(): void {
    const { memory, target, state } = this.#machine;
    this.#line({ op: 'machine', target: 'spaces', of: target.name, ram: ramOf(memory.regions) });
    for (const endpoint of Object.keys(state.endpoints)) this.#endpoint(Number(endpoint));
  }

  memoryChange(regions: readonly GuestRegion[]): void {
    this.#line({ op: 'ram', ram: ramOf(regions) });
  }

  pathChange({ endpoint, from, to }: PathChange): void {
    if (from === null) this.#endpoint(endpoint);
    else if (to === null) {
      for (const pasid of this.#reached.get(endpoint)?.keys() ?? []) this.#line({ op: 'attach', endpoint, ...pasidField(pasid) });
      this.#reached.delete(endpoint);
    }
  }

  operation(operation: GuestOperation): void {
    const { result } = operation;
    if (operation.kind === 'attach') {
      const { endpoint, space } = operation;
      if (!this.#reached.has(endpoint)) return;
      this.#attach(endpoint, operation.pasid ?? NO_PASID, space, result);
      return;
    }
    for (const { space, first, last } of operation.changed) if (this.#isReached(space)) this.#changed(space, first, last);
    this.#line({ op: 'flush', ...this.#resultOf(result) });
  }

  access({ endpoint, pasid, iova, access, gpa }: DeviceAccess): void {
    this.#refresh(endpoint, pasid, iova);
    this.#line(dmaLine(endpoint, pasid, iova, access, gpa));
  }

  fault({ endpoint, pasid, iova, access, code }: DeviceFault): void {
    // It was translated, to where no memory is: nothing that a replay could look at.
    if (code === MEM_FAULT) return;
    this.#refresh(endpoint, pasid, iova);
    this.#line(dmaLine(endpoint, pasid, iova, access, code));
  }

  #endpoint(endpoint: number): void {
    this.#reached.set(endpoint, new Map());
    this.#attach(endpoint, NO_PASID, this.#machine.target.spaceOf(endpoint), 0);
    this.#line({ op: 'endpoint', endpoint });
  }

  #attach(endpoint: number, pasid: number, space: AddressSpace | null, result: number): void {
    if (space !== null) this.#introduce(space);
    const reached = this.#reached.get(endpoint)!;
    // A target that keeps the mappings has taken the operation back.
    if (result === 0 || space?.owner !== 'target') reached.set(pasid, space);
    const id = space === null ? {} : { space: this.#written.get(space)!.id };
    this.#line({ op: 'attach', endpoint, ...pasidField(pasid), ...id, ...this.#resultOf(result) });
  }

  /** Says all of a space that nothing reached before: of what nobody reaches, nothing is told. */
  #introduce(space: AddressSpace): void {
    const isReached = this.#isReached(space);
    this.#describe(space);
    if (!isReached) for (const { first, last } of space.apertures) this.#changed(space, first, last);
  }

  /** Windows come and go, so apertures change. */
  #describe(space: AddressSpace): Written {
    const { name, granuleLg2, apertures } = space;
    // Without a host nothing was refused to the guest; what a replay's hardware cannot have is left out then, as if it stood in tables.
    const owner = this.#hasHost ? space.owner : 'guest';
    const said = { name, owner, granuleLg2, apertures: apertures.flatMap(({ first, last }) => [first, last]) };
    const description = JSON.stringify(said);
    let written = this.#written.get(space);
    if (written?.description !== description) {
      written = { id: written?.id ?? this.#spaces++, description };
      this.#written.set(space, written);
      this.#line({ op: 'space', space: written.id, ...said });
    }
    return written;
  }

  /** What [first, last] means now, in lines of a bounded length. */
  #changed(space: AddressSpace, first: number, last: number): void {
    const { id } = this.#describe(space);
    for (let from = first; from <= last; ) {
      const runs: number[] = [];
      const next = space.enumerate(from, last, (iova, gpa, pages, permission) => {
        runs.push(iova, gpa, pages, permission);
        return runs.length < 4 * LINE_RUNS;
      });
      this.#line({ op: 'changed', space: id, first: from, last: next - 1, runs });
      from = next;
    }
  }

  /** A guest that announces nothing, or a process that nothing was said of yet: what an access finds is said just before it. */
  #refresh(endpoint: number, pasid: number, iova: bigint): void {
    const reached = this.#reached.get(endpoint);
    if (reached === undefined) return;
    if (!reached.has(pasid)) this.#attach(endpoint, pasid, this.#machine.target.spaceOf(endpoint, pasid), 0);
    const space = reached.get(pasid)!;
    if (space === null || space.announced) return;
    this.#changed(space, pfnOf(iova), pfnOf(iova));
    this.#line({ op: 'flush' });
  }

  #isReached(space: AddressSpace): boolean {
    for (const spaces of this.#reached.values()) for (const one of spaces.values()) if (one === space) return true;
    return false;
  }

  #resultOf(result: number): object {
    return this.#hasHost ? { ret: result } : {};
  }

  #line(line: object): void {
    writeLine(this.#stream, line);
  }
}

function ramOf(regions: readonly GuestRegion[]): object[] {
  return ramLine(regions.map(({ gpa, bytes, buffer, offset }) => ({ gpa, bytes: bytes ?? buffer.byteLength - (offset ?? 0) })));
}
