import { simKernelWithMock } from '../../host/mock/index.ts';
import { Random } from '../../peers/random.ts';
import { Builder, type Kind } from './builder.ts';
import { compatSteps } from './compat-steps.ts';
import { hwptSteps } from './hwpt-steps.ts';
import { allocIoas, destroy, ioasSteps } from './ioas-steps.ts';
import { detachPasid, makeDevice, mockState, mockSteps } from './mock-steps.ts';
import type { Area, Outcome, Program } from './program.ts';
import { SimProcess } from './sim-process.ts';

/** Random programs, and what they come to on the simulated kernel. */

/** What steps open, by number: the real kernel's paths are the VM's to say. */
export const PATHS = ['/dev/iommu'] as const;
/** Control structs; memory to map; memory that can be read only. */
const AREAS = [0x2000, 0x1_0000, 0x1000];
const STEPS = 50;

export interface Simulated {
  readonly program: Program;
  readonly outcomes: readonly Outcome[];
  readonly areas: readonly Area[];
}

/** A step whose needs are there, most times. */
function choose(builder: Builder, kinds: readonly Kind[]): Kind[1] {
  const { random } = builder;
  const wanted = kinds.filter(([, , ...needs]) => needs.length === 0 || builder.has(...needs) || random.chance(3));
  let at = random.below(wanted.reduce((sum, [weight]) => sum + weight, 0));
  for (const [weight, step] of wanted) {
    if (at < weight) return step;
    at -= weight;
  }
  throw new RangeError('no steps');
}

const destroys = (builder: Builder, fd: number) => {
  const id = builder.id('ioas', 'paging', 'nesting', 'nested', 'viommu', 'vdevice', 'fault', 'veventq', 'queue', 'mock');
  // A stand-in that goes while it has PASIDs is the mock's own fault, and stays for ever.
  if ((mockState(builder).devices.get(id)?.size ?? 0) === 0) destroy(builder, fd, id);
};

const kinds: readonly Kind[] = [...ioasSteps, ...hwptSteps, ...mockSteps, ...compatSteps, [6, destroys]];

/** A program of its own seed. */
export function generate(seed: number): Simulated {
  const random = new Random(seed);
  const process = new SimProcess(simKernelWithMock(), PATHS, AREAS);
  const builder = new Builder(random, process);
  const fd = builder.play({ operation: 'open', name: 'open', request: 0 }).result;
  allocIoas(builder, fd);
  makeDevice(builder, fd);
  const count = 10 + random.below(STEPS);
  for (let step = 0; step < count; step++) choose(builder, kinds)(builder, fd);
  for (const [id, pasids] of mockState(builder).devices) for (const pasid of [...pasids]) detachPasid(builder, fd, id, pasid);
  builder.play({ operation: 'close', name: 'close', fd });
  return { program: builder.program, outcomes: builder.outcomes, areas: process.areas };
}
