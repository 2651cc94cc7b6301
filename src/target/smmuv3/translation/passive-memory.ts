import { CountedMemory } from '../../../pagetable/two-stage.ts';

/** Memory in whose tables every update of hardware succeeds and none is made. */
export class PassiveMemory extends CountedMemory {
  override compareExchange64(): number {
    return 1;
  }
}
