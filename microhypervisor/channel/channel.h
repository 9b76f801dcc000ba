#ifndef MH_CHANNEL_H
#define MH_CHANNEL_H

/* Take what came on the management channel's port and answer it. Monitor core only; returns when nothing is left. */
void channel_serve(void);

#endif
