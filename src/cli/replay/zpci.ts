import type { IovaRange } from '../../host/host.ts';
import { READ, READ_WRITE, WRITE } from '../../memory/access.ts';
import { hiOf, loOf, PAGE_BYTES, pfnOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { AddressSpace } from '../../target/target.ts';
import { CC, GeneralRegisters, MPCIFC, PEC, STATUS, UNFINISHED, ZpciIommu } from '../../target/zpci/index.ts';
import { hex } from '../../vmm/recording-lines.ts';
import type { RecordedLine } from '../recording.ts';
import { recordedRam } from './ram.ts';
import { guarded, type RecordedTarget, type ReplayContext, recordedAccess } from './replayer.ts';
import { ZpciBlocks } from './zpci-blocks.ts';
import { ZpciEvents } from './zpci-events.ts';
import { ZpciPeer } from './zpci-peer.ts';

/** Registers that the replayed instructions use. */
const R1 = 1;
const R2 = 2;
/** SCLP's commands: configure and deconfigure a PCI function (QEMU: include/hw/s390x/sclp.h). */
const SCLP_CONFIGURE = 0x1a0001;
const SCLP_DECONFIGURE = 0x1b0001;

export function recordedZpci(machine: RecordedLine, memory: GuestMemory): RecordedTarget {
  return new RecordedZpci(machine, memory);
}

class RecordedZpci implements RecordedTarget {
  readonly target: ZpciIommu;
  readonly promised: readonly IovaRange[];
  readonly #memory: GuestMemory;
  readonly #fids: readonly number[];
  readonly #registers = new GeneralRegisters();
  readonly #blocks = new ZpciBlocks();
  readonly #peer: ZpciPeer;
  /** Where a FIB is put, which recordings have without its address: the last page of RAM. What is there comes back. */
  readonly #fib: bigint;
  readonly #kept = new Uint8Array(128);
  readonly #events = new ZpciEvents();
  /** Functions whose loads and stores go again while the error state still keeps them from DMA, which QEMU lets go. */
  readonly #blocked = new Set<number>();
  readonly #standby = new Set<number>();
  /** Refreshes that the recorded host had no room for. */
  #hadNoRoom = 0;

  constructor(machine: RecordedLine, memory: GuestMemory) {
    this.#memory = memory;
    const [ram] = recordedRam(machine);
    this.#fib = ram.gpa + ram.bytes - BigInt(PAGE_BYTES);
    const functions = machine.objects('functions').map((one) => {
      const aperture = one.object('aperture');
      return {
        fid: one.u32('fid'),
        uid: one.u32('uid'),
        handle: one.u32('handle') & 0x7fff_ffff,
        group: one.u32('group'),
        aperture: { start: aperture.u64('start'), last: aperture.u64('end') },
      };
    });
    this.#fids = functions.map(({ fid }) => fid);
    this.promised = functions.map(({ aperture }) => ({ first: pfnOf(aperture.start), last: pfnOf(aperture.last) }));
    for (const { fid, handle } of functions) this.#blocks.know(handle, fid);
    this.#peer = new ZpciPeer();
    this.target = guarded(
      machine,
      () => new ZpciIommu({ memory, functions, relaxedTranslation: true, errorEvent: (event) => this.#events.happened(event) }),
    );
  }

  get peerHostCalls(): number {
    return this.#peer.hostCalls;
  }

  get notes(): readonly string[] {
    const refused = this.#hadNoRoom;
    return refused === 0 ? [] : [`${refused} refreshes that the recorded host had no room for were carried out`];
  }

  start({ passThrough }: ReplayContext): void {
    for (const fid of this.#fids) passThrough(fid);
  }

  replay(line: RecordedLine, context: ReplayContext): void {
    switch (line.op) {
      case 'mem':
        this.#store(line);
        break;
      case 'clpQuery':
      case 'clpGroup':
      case 'clpSet':
        this.#clp(line, context);
        break;
      case 'mpcifc':
        this.#modify(line, context);
        break;
      case 'rpcit':
        this.#refresh(line, context);
        break;
      case 'xlate':
        this.#xlate(line, context);
        break;
      case 'event':
        this.#event(line);
        break;
      case 'reset':
        this.#reset();
        break;
      case 'sclp':
        this.#configure(line);
        break;
      // What QEMU did for the functions that it passes through, and what the recorder did: nothing of the guest's.
      case 'peerMap':
      case 'peerUnmap':
      case 'provoked':
      case 'tampered':
        break;
      default:
        line.fail('is no operation of a zPCI guest');
    }
    this.#events.compare(context.answers);
  }

  end({ answers }: ReplayContext): void {
    this.#events.end(answers);
  }

  #store(line: RecordedLine): void {
    const bytes = bytesOf(line);
    const address = line.u64('addr');
    if (this.#memory.write(hiOf(address), loOf(address), bytes, 0, bytes.length) < 0) line.fail('is not in RAM');
  }

  #clp(line: RecordedLine, { answers }: ReplayContext): void {
    const wrong = this.#blocks.differences(this.target, line);
    answers.check(wrong.length === 0, () => `line ${line.number}: ${line.op} answers ${wrong.join(', ')}`);
    if (line.op === 'clpSet') this.#left(this.#blocks.fidOf(line.u32('handle')));
  }

  /** The function has no translation any more, and is in no error state. */
  #left(fid: number | null): void {
    if (fid === null) return;
    this.#blocked.delete(fid);
    this.#peer.forget(fid);
  }

  #modify(line: RecordedLine, context: ReplayContext): void {
    const fib = bytesOf(line, 'fib');
    const at: [number, number] = [hiOf(this.#fib), loOf(this.#fib)];
    this.#memory.read(...at, this.#kept, 0, fib.length);
    this.#memory.write(...at, fib, 0, fib.length);
    const operation = line.integer('oc');
    this.#registers.u64[R1] = (line.u64('handle') << 32n) | BigInt((line.integer('dmaas') << 16) | operation);
    this.#answer(line, context, this.target.mpcifc(this.#registers, R1, this.#fib));
    this.#memory.write(...at, this.#kept, 0, fib.length);
    const fid = this.#blocks.fidOf(line.u32('handle'));
    if (fid === null || line.integer('cc') !== CC.done) return;
    if (operation === MPCIFC.resetBlock) this.#blocked.add(fid);
    if (operation === MPCIFC.resetError) this.#blocked.delete(fid);
    if (operation >= MPCIFC.registerTranslation && operation <= MPCIFC.reregisterTranslation) this.#peer.forget(fid);
  }

  #refresh(line: RecordedLine, context: ReplayContext): void {
    const handle = line.u32('handle');
    this.#registers.u64[R1] = BigInt(handle) << 32n;
    this.#registers.u64[R2] = line.u64('iova');
    this.#registers.u64[R2 + 1] = line.u64('bytes');
    let answer: number;
    do answer = this.target.rpcit(this.#registers, R1, R2);
    while (answer === UNFINISHED);
    this.#answer(line, context, answer);
    const fid = this.#blocks.fidOf(handle) ?? -1;
    const space = this.target.spaceOf(fid);
    if (space !== null) this.#peer.refresh(fid, space, pfnOf(line.u64('iova')), pfnOf(line.u64('iova') + line.u64('bytes') - 1n));
  }

  /** The condition code, and the status where it means something. */
  #answer(line: RecordedLine, { answers }: ReplayContext, found: number): void {
    const expected = line.integer('cc');
    // What it could not map the guest maps again once it has flushed, so the tables tell either way.
    if (found === CC.done && expected === CC.error && line.integer('status') === STATUS.insufficient) {
      this.#hadNoRoom++;
      return;
    }
    answers.check(found === expected, () => `line ${line.number}: ${line.op} ends with condition code ${found}, not ${expected}`);
    if (expected === 0 || found !== expected || expected === 3) return;
    const status = Number((this.#registers.u64[R1] >> 24n) & 0xffn);
    answers.check(
      status === line.integer('status'),
      () => `line ${line.number}: ${line.op} has status ${status}, not ${line.integer('status')}`,
    );
  }

  #xlate(line: RecordedLine, context: ReplayContext): void {
    const endpoint = line.u32('function');
    const iova = line.u64('iova');
    if (line.has('fault')) {
      this.#fault(line, context, endpoint, iova);
      return;
    }
    const allowed = recordedAccess(line, 'perm');
    const space = this.target.spaceOf(endpoint);
    // After a fault QEMU leaves a passed-through function's mappings where they are, and lets DMA go before the guest does (Linux: "Unblocking
    // DMA" is MPCIFC 7); a function in the error state does none.
    if (space === null && (line.has('by') || this.#blocked.has(endpoint))) {
      context.dma.check({ endpoint, iova, gpa: 0n, allowed: 0, forbidden: READ_WRITE, line: line.number });
      return;
    }
    context.dma.check({ endpoint, iova, gpa: line.u64('addr'), allowed, forbidden: 0, line: line.number });
    // An access that is forbidden puts the function into the error state, so the permission is read from what hardware has.
    const granted = grantedAt(space, iova);
    context.answers.check(granted === allowed, () => `line ${line.number}: the page at ${hex(iova)} grants ${granted}, not ${allowed}`);
  }

  /** A fault of QEMU's that its IOTLB alone explains (`unrefreshed`) is none of ours: the page translates, and the guest goes its way. */
  #fault(line: RecordedLine, context: ReplayContext, endpoint: number, iova: bigint): void {
    if (line.has('unrefreshed') && !this.#blocked.has(endpoint)) {
      const found = this.target.translate(endpoint, -1, hiOf(iova), loOf(iova), 1);
      context.dma.software.check(found >= 0, () => `line ${line.number}: the table has ${hex(iova)}, and an access faults`);
      if (found >= 0) this.target.fail(endpoint, PEC.protection, iova);
      return;
    }
    const forbidden = line.has('access') ? accessOf(line) : line.has('perm') ? WRITE : READ;
    const access = { endpoint, iova, gpa: 0n, allowed: 0, forbidden, line: line.number };
    if (!line.has('by')) {
      context.dma.check(access);
      return;
    }
    // The endpoint itself found nothing there: QEMU never heard of it, and so the function is in no other state.
    context.dma.checkHardware(access);
    const granted = grantedAt(this.target.spaceOf(endpoint), iova);
    context.answers.check((granted & forbidden) === 0, () => `line ${line.number}: the page at ${hex(iova)} grants ${granted}`);
  }

  /** A fault that QEMU sees where no DMA goes at all is none of the target's; the guest goes its way. */
  #event(line: RecordedLine): void {
    if (line.has('kind') && line.text('kind') !== 'error') return;
    const fid = line.u32('fid');
    const code = line.u32('pec');
    if (this.#blocked.has(fid) && (code === PEC.range || code === PEC.protection)) {
      this.target.fail(fid, code, line.u64('faddr'));
      this.#blocked.delete(fid);
    }
    this.#events.line(line);
  }

  /** QEMU leaves a function in standby there (s390_pci_device_reset). */
  #reset(): void {
    this.target.reset();
    for (const fid of this.#fids) this.#left(fid);
    for (const fid of this.#standby) this.target.configure(fid, false);
  }

  #configure(line: RecordedLine): void {
    const command = line.u32('command');
    if (command !== SCLP_CONFIGURE && command !== SCLP_DECONFIGURE) return;
    const fid = line.u32('fid');
    this.target.configure(fid, command === SCLP_CONFIGURE);
    if (command === SCLP_CONFIGURE) this.#standby.delete(fid);
    else this.#standby.add(fid);
    this.#left(fid);
  }
}

function grantedAt(space: AddressSpace | null, iova: bigint): number {
  let granted = 0;
  space?.enumerate(pfnOf(iova), pfnOf(iova), (_iova, _gpa, _pages, permission) => {
    granted = permission;
    return true;
  });
  return granted;
}

function accessOf(line: RecordedLine): number {
  return line.text('access') === 'write' ? WRITE : READ;
}

function bytesOf(line: RecordedLine, field = 'hex'): Uint8Array {
  const text = line.text(field);
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(text)) line.fail(`'${field}' is no hexadecimal`);
  return Uint8Array.from(Buffer.from(text, 'hex'));
}
