import type { Host, HostDevice } from '../host/host.ts';
import { requireBoolean, requireObject } from '../memory/arguments.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { AddressSpace, StageFormat } from '../target/target.ts';
import { candidates } from './choose.ts';

/** What a target's spaces are like, as far as paths ask: without a guest that runs. */
export interface SpaceTraits extends Pick<AddressSpace, 'name' | 'owner' | 'announced' | 'tellsTables'> {
  /** Widest input address that the target promises its guest, in bits. Default: 48. */
  readonly inputBits?: number;
  /** Left out: no first stage of its own that hardware could walk. */
  readonly stageFormat?: StageFormat;
}

/** A way from a target to a host: whether it is open, and if not, why. */
export interface Way {
  readonly path: string;
  /** null: it is open. */
  readonly reason: string | null;
}

/**
 * All ways from spaces of this kind to the hardware in front of a device, fastest first: what `choose` will decide once a guest is there.
 *
 * @example
 * const kernel = simKernel({ iommus: [{ nesting: vtd() }] });
 * const host = openHost('iommufd', kernel);
 * const tce = { name: 'sPAPR TCE', owner: 'target', announced: true, inputBits: 32 };
 * waysBetween(tce, host, host.openDevice(kernel.device().path)).find(({ reason }) => reason === null)?.path; // 'user-owned'
 */
export function waysBetween(traits: SpaceTraits, host: Host, device: HostDevice, isWatched = false): readonly Way[] {
  requireObject('waysBetween', 'traits', traits);
  requireObject('waysBetween', 'host', host, 'Host', ['openDevice', 'createSpace']);
  requireObject('waysBetween', 'device', device, 'HostDevice', ['detach']);
  requireBoolean('waysBetween', 'isWatched', isWatched);
  const { inputBits = 48, stageFormat, ...kind } = traits;
  const space: AddressSpace = {
    ...kind,
    granuleLg2: 12,
    apertures: [{ first: 0, last: 2 ** (inputBits - 12) - 1 }],
    enumerate: (_first, last) => last + 1,
  };
  const target = { name: traits.name, ...(stageFormat && { stageFormat }) };
  const context = {
    space,
    memory: new GuestMemory([]),
    host,
    device,
    target,
    isWatched,
    stage: stageFormat ? ({ kind: 'abort' } as const) : null,
  };
  return candidates(context).map(({ path, reason }) => ({ path, reason }));
}
