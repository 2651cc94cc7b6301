import type { AddressSpace, PfnRange, RunVisitor } from '../target.ts';
import type { FunctionTranslation } from './spaces.ts';

const NOWHERE: readonly PfnRange[] = [];

/**
 * What a function's requests reach: nothing, and once a translation is registered what that means. Hardware stays attached to it then, since a
 * registration is a change of an empty space; what takes the registration away gives the function another empty one.
 */
export class FunctionSpace implements AddressSpace {
  readonly owner = 'guest';
  readonly announced = true;
  readonly granuleLg2 = 12;
  readonly #fid: number;
  #translation: FunctionTranslation | null = null;

  constructor(fid: number) {
    this.#fid = fid;
  }

  get translation(): FunctionTranslation | null {
    return this.#translation;
  }

  get name(): string {
    return this.#translation?.name ?? `function 0x${this.#fid.toString(16)}, nothing registered`;
  }

  get apertures(): readonly PfnRange[] {
    return this.#translation?.apertures ?? NOWHERE;
  }

  register(translation: FunctionTranslation): void {
    this.#translation = translation;
  }

  enumerate(first: number, last: number, visit: RunVisitor): number {
    return this.#translation?.enumerate(first, last, visit) ?? last + 1;
  }
}
