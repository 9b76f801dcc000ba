/* Which parts of a VMCB's state VMRUN and #VMEXIT move, and which VMLOAD and VMSAVE (APM 2, 15.5.1, 15.5.2, 15.6). */
#ifndef MH_STATE_H
#define MH_STATE_H

#include "cpu/vmcb.h"

void state_copy_loaded(struct vmcb_save *to, const struct vmcb_save *from); /* VMLOAD, VMSAVE */
void state_copy_run(struct vmcb_save *to, const struct vmcb_save *from);    /* #VMEXIT */

#endif
