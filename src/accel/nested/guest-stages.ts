import { type HostError, hostErrorOf } from '../../host/errno.ts';
import type { Host, HostDevice, InstalledStage, NestingParent } from '../../host/host.ts';
import { type FirstStage, sameStage } from '../../target/target.ts';

/** Ranges of one stage that one flush names; of more, the whole stage is forgotten. As many as one call carries. */
const RANGES = 4096;

/** A first stage of the guest's that the hardware has, for all devices that an owner brought to it. */
export interface GuestStage {
  readonly owner: object;
  readonly stage: FirstStage;
  readonly pageRequests: boolean;
  readonly point: InstalledStage;
  users: number;
}

type Translating = Extract<FirstStage, { kind: 'vtd' | 'smmuv3' }>;

/** First stages by owner and value: each is on the hardware once, as long as a device is on it. */
export class GuestStages {
  readonly #parent: NestingParent;
  readonly #host: Host;
  readonly #stages = new Map<object, GuestStage[]>();
  /** Whether a device can ask for pages; what the hardware says is not always so. */
  readonly #requests = new WeakMap<HostDevice, boolean>();
  /** Those that the kernel would not let go while a device was on them. */
  #lingering: InstalledStage[] = [];

  constructor(parent: NestingParent, host: Host) {
    this.#parent = parent;
    this.#host = host;
  }

  of(owner: object): readonly GuestStage[] {
    return this.#stages.get(owner) ?? [];
  }

  /** @throws HostError when the hardware does not take it. */
  take(device: HostDevice, stage: FirstStage, owner: object): GuestStage {
    const pageRequests = this.#requests.get(device) ?? this.#host.nesting!.requestsPages(device);
    const mine = this.#stages.get(owner) ?? [];
    const known = mine.find((other) => other.pageRequests === pageRequests && sameStage(other.stage, stage));
    if (known !== undefined) {
      known.users++;
      return known;
    }
    const point = this.#parent.install(device, stage as Translating, { ranges: RANGES, pageRequests });
    const made = { owner, stage, pageRequests, point, users: 1 };
    mine.push(made);
    this.#stages.set(owner, mine);
    return made;
  }

  /** The device cannot ask for pages after all. */
  withoutRequests(device: HostDevice): void {
    this.#requests.set(device, false);
  }

  /** A device less. True: it was the last, and the hardware has the stage no more. */
  drop(stage: GuestStage): boolean {
    if (--stage.users > 0) return false;
    const left = this.of(stage.owner).filter((other) => other !== stage);
    if (left.length > 0) this.#stages.set(stage.owner, left);
    else this.#stages.delete(stage.owner);
    this.#lingering.push(stage.point);
    this.close();
    return true;
  }

  /** Destroys what no device is on. Returns what the kernel said against it. */
  close(): HostError | null {
    let error: HostError | null = null;
    this.#lingering = this.#lingering.filter((point) => {
      try {
        point.close();
        return false;
      } catch (caught) {
        const refused = hostErrorOf(caught);
        error = refused;
        return true;
      }
    });
    return error;
  }
}
