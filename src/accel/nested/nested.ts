import type { HostError } from '../../host/errno.ts';
import type { HostDevice, NestingHardware } from '../../host/host.ts';
import { NO_PASID } from '../../target/target.ts';
import type { GuestHardware, PasidPlace, Path, PathContext, PathCounters, PathKind, Requester } from '../path.ts';
import { refuseMemory, refusePasid, refuseQueue } from '../second-stage/second-stage.ts';
import { GuestUnit } from './guest-unit.ts';

/** The hardware walks the guest's own tables: a map costs nothing, any number of invalidations one call. */
export const nested = kindOf('nested', false);

/** The same, and the guest's commands go into a queue that the hardware reads: no call at all. */
export const nestedQueue = kindOf('nested-queue', true);

function kindOf(name: string, queue: boolean): PathKind {
  return {
    name,
    readsGuestTables: true,
    refuse: (context) => refuse(context) ?? (queue ? refuseQueue(context) : null),
    pasidsOf,
    create: (context) => new NestedPath(name, context, queue),
  };
}

/** An SMMUv3's entry names the table of all its PASIDs. */
function pasidsOf({ host, device }: PathContext): PasidPlace {
  const hardware = host!.nesting!.hardwareOf(device!) as NestingHardware;
  if (hardware.kind === 'smmuv3') return 'carried';
  return hardware.pasidStages ? 'own' : 'none';
}

function refuse(context: PathContext): string | null {
  const { space, host, device, target, stage = null, pasid = NO_PASID } = context;
  if (host === null) return 'the endpoint has no host device';
  if (target?.stageFormat === undefined) return `${target?.name ?? 'the target'}: its guest has no first stage that hardware could walk`;
  if (stage === null) return `${space.name}: more than a first stage of the guest's own`;
  if (host.nesting === undefined || device === undefined) return `${host.kind} takes no first stages`;
  const hardware = host.nesting.hardwareOf(device);
  if (typeof hardware === 'string') return hardware;
  if (hardware.kind !== target.stageFormat)
    return `the guest's first stage is ${target.stageFormat}'s, the hardware walks ${hardware.kind}'s`;
  if (pasid !== NO_PASID && !hardware.pasidStages) return refusePasid(hardware);
  const rom = refuseMemory(context, hardware);
  if (rom !== null || stage.kind === 'abort' || stage.kind === 'bypass') return rom;
  return stage.kind === 'amd' ? 'no hardware takes it' : host.nesting.refuses(device, stage);
}

/**
 * One space of the guest's, or NOWHERE: what the hardware has of it is its tables themselves. What devices are attached to says each one's
 * stage; the unit has them all, since commands and failures concern them all.
 */
class NestedPath implements Path {
  readonly name: string;
  readonly counters: PathCounters = { flushes: 0, splits: 0, splitsWithoutGap: 0, merges: 0 };
  readonly unfinished = false;
  readonly #unit: GuestUnit;
  #error: HostError | null = null;

  constructor(name: string, { memory, host, device, target }: PathContext, queue: boolean) {
    this.name = name;
    this.#unit = GuestUnit.join({ host: host!, memory, device: device!, queue, report: (event) => target!.report?.(event) });
  }

  get guestHardware(): GuestHardware {
    return this.#unit;
  }

  get error(): HostError | null {
    return this.#error;
  }

  get leftOut(): readonly string[] {
    return this.#unit.leftOut;
  }

  get pending(): boolean {
    return this.#unit.pending;
  }

  attach(device: HostDevice, requester: Requester): number {
    const result = this.#unit.attach(device, requester, this);
    this.#unit.second.attached(device, result);
    return this.#answered(result);
  }

  detach(device: HostDevice): number {
    return this.#answered(this.#unit.detach(device, this));
  }

  moved(device: HostDevice): void {
    this.#unit.forget(device, this);
  }

  changed(first: number, last: number): void {
    this.#unit.changed(this, first, last);
  }

  remap(): number {
    return this.#answered(this.#unit.follow());
  }

  trackDirty(on: boolean): void {
    this.#unit.second.trackDirty(on);
  }

  noteWrites(): void {
    this.#unit.second.noteWrites();
  }

  get inexact(): string | null {
    return this.#unit.second.inexact;
  }

  flush(): number {
    if (!this.pending) return 0;
    this.counters.flushes++;
    return this.#answered(this.#unit.flush());
  }

  close(): void {
    this.#error = this.#unit.leave(this) ?? this.#error;
  }

  #answered(answer: number): number {
    if (answer < 0) this.#error = this.#unit.error;
    return answer;
  }
}
