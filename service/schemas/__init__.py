"""What requests and answers hold, by subject. Unknown fields are refused, never ignored."""
