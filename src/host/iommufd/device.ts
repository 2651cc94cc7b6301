import { errno, HostError } from '../errno.ts';
import type { HostCalls, HostDevice } from '../host.ts';
import type { Port } from '../port.ts';
import { Command } from './command.ts';
import type { Handle, IommufdContext } from './context.ts';

/** struct vfio_device_bind_iommufd up to `out_devid`: argsz, flags, iommufd, out_devid. */
const BIND_BYTES = 16;
/** struct vfio_device_attach_iommufd_pt up to `pt_id`: argsz, flags, pt_id; with `pasid`. */
const ATTACH_BYTES = 12;
const ATTACH_PASID_BYTES = 16;
/** struct vfio_device_detach_iommufd_pt up to `flags`: argsz, flags; with `pasid`. */
const DETACH_BYTES = 8;
const DETACH_PASID_BYTES = 12;
/** VFIO_DEVICE_ATTACH_PASID and VFIO_DEVICE_DETACH_PASID */
const WITH_PASID = 1;

const bindHints: Readonly<Record<number, string>> = {
  [errno.EPERM]:
    'another iommufd owns the IOMMU group, or interrupts are not remapped and the kernel wants iommufd.allow_unsafe_interrupts=1',
  [errno.EBUSY]: 'the IOMMU group is open through /dev/vfio',
  [errno.ENOTTY]: 'not a VFIO device node, as under /dev/vfio/devices',
};

const HELD = 'it is detached once nothing holds its file; a region that is still mapped does';

/** What a device, or one PASID of it, is attached to. */
export interface Place extends Handle {
  /** PASIDs can be attached to it, or beside it (IOMMU_HWPT_ALLOC_PASID). Default false. */
  readonly forPasid?: boolean;
  /** Attaches by a page table of its own that suits. Left out: it is a page table. */
  enter?(who: Attachable): number;
}

/** A device of this host, or one PASID of it. */
export abstract class Attachable implements HostDevice {
  abstract readonly name: string;
  /** The kernel's handle for the device within its iommufd. */
  abstract readonly id: number;
  abstract readonly iommuGroup: string | null;
  /** The space or page table that it is attached to. */
  abstract readonly attachment: Place | null;
  abstract readonly closed: boolean;
  /** Its page tables must be such that PASIDs can be attached to them, or beside them. */
  abstract readonly wantsPasidTables: boolean;
  /** The device itself. */
  abstract readonly device: IommufdDevice;
  /** How often it was attached or detached: page requests of before have their answer. */
  abstract readonly moves: number;
  /**
   * Attaches to an IOAS or HWPT, or replaces what was attached, with no moment in between. `as`: what stands behind an HWPT, if that is somebody's
   * means only. Returns 0 or a negative errno.
   */
  abstract attach(to: Place, as?: Place): number;
  abstract detach(): number;
  /** Said when an `attach` has failed and no other is tried: `attachment` is true again, if it was not. */
  abstract settle(): void;
  abstract close(): HostError | null;

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A VFIO device, opened by its own node and bound to an iommufd. */
export class IommufdDevice extends Attachable {
  readonly name: string;
  readonly id: number;
  /** Its VFIO descriptor, for regions and interrupts. */
  readonly fd: number;
  readonly iommuGroup: string | null;
  attachment: Place | null = null;
  moves = 0;
  /** Its PASIDs that are opened for themselves. */
  readonly processes = new Map<number, Attachable>();
  wantsPasidTables = false;
  readonly #port: Port;
  readonly #attach: Command;
  readonly #detach: Command;
  readonly #calls: HostCalls;
  readonly #siblings: Set<IommufdDevice>;
  readonly #pasids = new Set<number>();
  /** What the kernel has attached it to. */
  #at: Place | null = null;
  /** Whether it still goes through that is not known: an attach has failed since. */
  #isDoubtful = false;
  #closed = false;

  /** `siblings`: the devices of its iommufd, where it stands until it is closed. @throws HostError when the node cannot be opened or bound. */
  constructor({ port, fd: iommufd, calls }: IommufdContext, path: string, siblings: Set<IommufdDevice>) {
    super();
    this.#calls = calls;
    const fd = port.open(path);
    if (fd < 0) throw new HostError(`open ${path}`, fd);
    this.#port = port;
    this.name = path;
    this.fd = fd;
    this.iommuGroup = groupOf(port, path);
    this.#siblings = siblings;
    const bind = new Command(port, 'VFIO_DEVICE_BIND_IOMMUFD', BIND_BYTES);
    bind.words[2] = iommufd;
    const result = bind.call(fd);
    this.id = bind.words[3];
    bind.release();
    if (result < 0) {
      port.close(fd);
      throw new HostError(`VFIO_DEVICE_BIND_IOMMUFD of ${path}`, result, undefined, bindHints[-result]);
    }
    this.#attach = new Command(port, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', ATTACH_BYTES);
    this.#detach = new Command(port, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', DETACH_BYTES);
    siblings.add(this);
  }

  get device(): IommufdDevice {
    return this;
  }

  attach(to: Place, as: Place = to): number {
    if (this.#closed) return -errno.ENODEV;
    this.#attach.words[2] = to.id;
    const result = this.#attach.call(this.fd);
    // What is reserved is looked at before the IOMMU's driver is asked.
    if (result < 0) this.#isDoubtful ||= this.#at !== null && result !== -errno.EADDRINUSE;
    if (result < 0) return result;
    // The kernel does nothing for what it takes for attached.
    if (to !== this.#at) this.#isDoubtful = false;
    this.#at = to;
    this.attachment = as;
    this.moves++;
    return 0;
  }

  /**
   * VT-d's driver blocks a device before it looks whether the table suits, and attaching to the old one again does nothing then (7.3:
   * intel_iommu_attach_device, iommufd_device_do_replace). So its whole group is detached and comes back; whoever cannot is blocked, and known to be.
   */
  settle(): void {
    if (!this.#isDoubtful) return;
    const ofGroup = [...this.#siblings].filter(
      (other) => other === this || (this.iommuGroup !== null && other.iommuGroup === this.iommuGroup),
    );
    const returning = ofGroup.flatMap((device) => {
      const [at, as] = [device.#at, device.attachment];
      if (at === null || as === null) return [];
      this.#calls.attach++;
      return device.detach() === 0 ? [{ device, at, as }] : [];
    });
    for (const { device, at, as } of returning) {
      this.#calls.attach++;
      device.attach(at, as);
    }
  }

  /**
   * From now on its page tables are such that PASIDs can be attached beside them; the one that it has is replaced, if it is somebody's means only.
   * Returns 0 or a negative errno.
   */
  admitPasids(): number {
    this.wantsPasidTables = true;
    if (this.attachment?.enter === undefined || this.attachment.forPasid) return 0;
    this.#calls.attach++;
    const result = this.attachment.enter(this);
    if (result < 0) this.settle();
    return result;
  }

  detach(): number {
    if (this.#closed) return 0;
    const result = this.#detach.call(this.fd);
    if (result < 0) return result;
    this.#at = null;
    this.#isDoubtful = false;
    this.attachment = null;
    this.moves++;
    return 0;
  }

  /** Attaches one PASID of the device to an IOAS or HWPT, or replaces what it was attached to. Returns 0 or a negative errno. */
  attachPasid(pasid: number, to: Handle): number {
    const command = new Command(this.#port, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', ATTACH_PASID_BYTES);
    command.words[1] = WITH_PASID;
    command.words[2] = to.id;
    command.words[3] = pasid;
    const result = command.call(this.fd);
    command.release();
    if (result >= 0) this.#pasids.add(pasid);
    return Math.min(result, 0);
  }

  /** Requests of the PASID are blocked. Returns 0 or a negative errno. */
  detachPasid(pasid: number): number {
    const command = new Command(this.#port, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', DETACH_PASID_BYTES);
    command.words[1] = WITH_PASID;
    command.words[2] = pasid;
    const result = command.call(this.fd);
    command.release();
    if (result >= 0) this.#pasids.delete(pasid);
    return Math.min(result, 0);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Detaches, and closes the descriptor, which unbinds. Detaching comes first: a region that is still mapped holds the file, and the
   * device would go on with its DMA. A detach that fails is no reason to keep the descriptor, which detaches when nothing holds it: the first
   * one that failed is returned.
   */
  close(): HostError | null {
    if (this.#closed) return null;
    let failed = 0;
    const note = (result: number) => {
      failed ||= result;
    };
    for (const pasid of [...this.#pasids]) note(this.detachPasid(pasid));
    if (this.attachment !== null) note(this.detach());
    this.#closed = true;
    this.#pasids.clear();
    this.processes.clear();
    this.attachment = null;
    this.#port.close(this.fd);
    this.#attach.release();
    this.#detach.release();
    this.#siblings.delete(this);
    return failed < 0 ? new HostError('VFIO_DEVICE_DETACH_IOMMUFD_PT', failed, undefined, `${this.name}: ${HELD}`) : null;
  }
}

/** @throws TypeError for a device of another host. */
export function own(device: HostDevice): Attachable {
  if (device instanceof Attachable) return device;
  throw new TypeError(`IommufdHost: ${String(device?.name)} was not opened through this host`);
}

/** iommufd itself does not say; sysfs has it for whoever opened the device by its own node. */
function groupOf(port: Port, path: string): string | null {
  const name = path.slice(path.lastIndexOf('/') + 1);
  const link = port.readlink(`/sys/class/vfio-dev/${name}/device/iommu_group`);
  return typeof link === 'string' ? link.slice(link.lastIndexOf('/') + 1) : null;
}
