import type { SimKernel } from '../../../src/host/sim/index.ts';
import { simKernelWithMock } from '../../host/mock/index.ts';
import { Random } from '../../peers/random.ts';
import { Builder, type Kind } from './builder.ts';
import { attach, bind, cdevSteps, openDevice } from './cdev-steps.ts';
import { compatSteps } from './compat-steps.ts';
import { hwptSteps } from './hwpt-steps.ts';
import { allocIoas, destroy, ioasSteps } from './ioas-steps.ts';
import { IOMMUFD, PATHS, vtdMachine } from './machine.ts';
import { detachPasid, makeDevice, mockState, mockSteps } from './mock-steps.ts';
import { limit, processSteps } from './process-steps.ts';
import type { Area, Outcome, Program } from './program.ts';
import { SimProcess } from './sim-process.ts';
import { beginType1, type1Steps } from './type1-steps.ts';

/** Random programs, and what they come to on the simulated kernel. */

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

const objectSteps: readonly Kind[] = [...ioasSteps, ...hwptSteps, ...compatSteps, [6, destroys]];

/** What a program is about. */
interface Subject {
  readonly kernel: () => SimKernel;
  readonly kinds: readonly Kind[];
  /** Returns the descriptor that steps are done on. */
  begin(builder: Builder): number;
  end?(builder: Builder, fd: number): void;
}

function openIommufd(builder: Builder): number {
  const fd = builder.play({ operation: 'open', name: 'open', request: IOMMUFD }).result;
  allocIoas(builder, fd);
  return fd;
}

/** iommufd and its objects, on the mock. */
const mock: Subject = {
  kernel: () => simKernelWithMock(),
  kinds: [...objectSteps, ...mockSteps],
  begin(builder) {
    const fd = openIommufd(builder);
    makeDevice(builder, fd);
    return fd;
  },
  end(builder, fd) {
    // A struct of few lies where the kernel cannot read it; a stand-in that keeps a PASID makes the kernel warn, and lose what it pinned.
    for (const [id, pasids] of mockState(builder).devices)
      for (const pasid of pasids) for (let tries = 0; pasids.has(pasid) && tries < 8; tries++) detachPasid(builder, fd, id, pasid);
  },
};

/** VFIO devices that are bound to an iommufd. */
const cdev: Subject = {
  kernel: () => simKernelWithMock(vtdMachine),
  kinds: [...objectSteps, ...cdevSteps],
  begin(builder) {
    const fd = openIommufd(builder);
    openDevice(builder);
    for (const step of [bind, attach]) if (builder.random.chance(90)) step(builder, fd);
    return fd;
  },
};

/** VFIO's containers, with the type1 driver. */
const type1: Subject = {
  kernel: () => simKernelWithMock(vtdMachine),
  kinds: type1Steps,
  begin(builder) {
    beginType1(builder);
    return -1;
  },
};

/** As often as each is wanted. */
const subjects = [mock, mock, mock, cdev, type1];

/** A program of its own seed. @throws Error that names it, whatever the simulated kernel throws. */
export function generate(seed: number): Simulated {
  try {
    return made(seed);
  } catch (error) {
    throw new Error(`lock step: program ${seed} on the simulated kernel: ${error}`, { cause: error });
  }
}

function made(seed: number): Simulated {
  const random = new Random(seed);
  const { kernel, kinds, begin, end } = random.pick(subjects);
  const process = new SimProcess(kernel(), PATHS, AREAS);
  const builder = new Builder(random, process);
  if (random.chance(20)) limit(builder);
  const fd = begin(builder);
  const count = 10 + random.below(STEPS);
  for (let step = 0; step < count; step++) {
    builder.byChild = process.hasChild && random.chance(40);
    choose(builder, [...kinds, ...processSteps])(builder, fd);
  }
  builder.byChild = false;
  end?.(builder, fd);
  if (fd >= 0) builder.play({ operation: 'close', name: 'close', fd });
  return { program: builder.program, outcomes: builder.outcomes, areas: process.areas };
}
