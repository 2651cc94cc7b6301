import { BROKEN, type Chain, EMPTY, type VirtioDevice } from '../../virtqueue/index.ts';
import { F_EVENT_IDX, F_INDIRECT_DESC, F_RING_PACKED, F_VERSION_1 } from '../../virtqueue/spec.ts';
import { F_ACCESS_PLATFORM } from '../virtio/spec.ts';

/** What each of our devices offers of what is no device's own (6). */
export const SHARED_FEATURES = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_ACCESS_PLATFORM | F_RING_PACKED;

/**
 * Serves what the driver has put into a queue, up to `most` buffers; true: there may be more, for another turn. `serve` does what the buffer in
 * `chain` asks for and answers how many bytes it wrote there; negative: the buffer is not as the driver has to make it, and the device breaks.
 */
export function serveQueue(device: VirtioDevice, index: number, chain: Chain, most: number, serve: () => number): boolean {
  const queue = device.queue(index);
  if (queue === null) return false;
  for (let done = 0; done < most; done++) {
    const taken = queue.take(chain);
    if (taken === EMPTY) {
      if (queue.publish()) device.interrupt(index);
      // One that came between the last look and now would not notify.
      if (!queue.rearm()) return false;
      continue;
    }
    const written = taken === BROKEN ? -1 : serve();
    if (written < 0 || queue.give(chain, written) < 0) {
      device.breakDown();
      return false;
    }
  }
  if (queue.publish()) device.interrupt(index);
  return true;
}
