import { READ, WRITE } from '../../../memory/access.ts';
import { errno } from '../../errno.ts';
import type { UserBuffer } from '../structs.ts';
import type { DmaFault } from '../translation.ts';
import { handler, type IoctlHandler, type IommufdContext } from './context.ts';
import { EventQueueFile, type EventSource } from './event-file.ts';
import type { FaultSink, Hwpt } from './page-tables.ts';
import { iommuFaultAlloc, iommuHwptPageResponse, iommuHwptPgfault } from './structs.ts';

/** I/O page faults for the user to resolve (the kernel's eventq.c): read as struct iommu_hwpt_pgfault, answered by writing. */

/** enum iommu_hwpt_pgfault_flags and iommu_hwpt_pgfault_perm */
const PASID_VALID = 1;
const LAST_PAGE = 2;
const PERMISSION_READ = 1;
const PERMISSION_WRITE = 2;
/** enum iommufd_page_response_code */
const RESPONSE_INVALID = 1;

/** What a page request says. */
interface Message {
  readonly group: number;
  /** enum iommu_hwpt_pgfault_perm */
  readonly permission: number;
  readonly address: bigint;
}

interface Request extends Message {
  readonly hwpt: Hwpt;
  readonly fault: DmaFault;
}

function permissionOf(access: number): number {
  return ((access & READ) !== 0 ? PERMISSION_READ : 0) | ((access & WRITE) !== 0 ? PERMISSION_WRITE : 0);
}

export class FaultQueue implements FaultSink, EventSource {
  readonly kind = 'fault';
  id = 0;
  users = 1;
  readonly #context: IommufdContext;
  #deliver: Request[] = [];
  readonly #answers = new Map<number, Request>();
  #group = 0;

  constructor(context: IommufdContext) {
    this.#context = context;
  }

  /** `message`: default of a device that numbers its requests and says what it wanted. */
  report(hwpt: Hwpt, fault: DmaFault, message?: Message): void {
    const { access, pfn } = fault;
    const made = message ?? { group: this.#group++ & 0x1ff, permission: permissionOf(access), address: BigInt(pfn) << 12n };
    this.#deliver.push({ hwpt, fault, ...made });
  }

  leave(hwpt: Hwpt, device: string): void {
    const leaves = (request: Request) => request.hwpt === hwpt && request.fault.device === device;
    for (const [cookie, request] of this.#answers) {
      if (!leaves(request)) continue;
      this.#answers.delete(cookie);
      request.fault.respond(RESPONSE_INVALID);
    }
    for (const request of this.#deliver.filter(leaves)) request.fault.respond(RESPONSE_INVALID);
    this.#deliver = this.#deliver.filter((request) => !leaves(request));
  }

  get waiting(): boolean {
    return this.#deliver.length > 0;
  }

  /** Whole records only; nothing to read is 0. */
  read(user: UserBuffer): number {
    const { bytes } = iommuHwptPgfault;
    if (user.bytes % bytes !== 0) return -errno.ESPIPE;
    for (let done = 0; ; done += bytes) {
      const [request] = this.#deliver;
      if (request === undefined) return done;
      if (user.bytes - done < bytes) return done === 0 ? -errno.EINVAL : done;
      const cookie = this.#cookie();
      if (!user.write(this.#record(request, cookie), done)) return done === 0 ? -errno.EFAULT : done;
      this.#deliver.shift();
      this.#answers.set(cookie, request);
    }
  }

  /** The lowest that is free, from 1. */
  #cookie(): number {
    let cookie = 1;
    while (this.#answers.has(cookie)) cookie++;
    return cookie;
  }

  #record({ fault, group, permission, address }: Request, cookie: number): Uint8Array {
    const into = new Uint8Array(iommuHwptPgfault.bytes);
    iommuHwptPgfault.encode(into, {
      flags: LAST_PAGE | (fault.pasid >= 0 ? PASID_VALID : 0),
      dev_id: this.#context.bound(fault.device)!.id,
      pasid: Math.max(fault.pasid, 0),
      grpid: group,
      perm: permission,
      addr: address,
      cookie,
    });
    return into;
  }

  write(user: UserBuffer): number {
    const { bytes } = iommuHwptPageResponse;
    if (user.bytes % bytes !== 0) return -errno.ESPIPE;
    for (let done = 0; done < user.bytes; done += bytes) {
      const refused = this.#respond(user.view(done, bytes));
      if (refused < 0) return done === 0 ? refused : done;
    }
    return user.bytes;
  }

  #respond(response: Uint8Array | null): number {
    if (response === null) return -errno.EFAULT;
    const { cookie, code } = iommuHwptPageResponse.decode(response);
    const request = this.#answers.get(cookie);
    if (code > RESPONSE_INVALID || request === undefined) return -errno.EINVAL;
    this.#answers.delete(cookie);
    request.fault.respond(code);
    return 0;
  }

  destroy(): void {
    for (const { fault } of [...this.#deliver, ...this.#answers.values()]) fault.respond(RESPONSE_INVALID);
  }

  save(): unknown {
    return { deliver: this.#deliver.length, answers: [...this.#answers.keys()] };
  }
}

const alloc = handler('IOMMU_FAULT_QUEUE_ALLOC', iommuFaultAlloc, 'out_fault_fd', (context, command) => {
  if (command.in.flags !== 0) return -errno.EOPNOTSUPP;
  const queue = context.add(new FaultQueue(context));
  return EventQueueFile.open(context, queue, (fd) => command.respond({ out_fault_id: queue.id, out_fault_fd: fd }));
});

export const faultHandlers: readonly IoctlHandler[] = [alloc];
